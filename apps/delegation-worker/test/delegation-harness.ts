import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MessagePosted } from '@signalbox/contracts/conversation-inbound';
import type { TaskSubmitted } from '@signalbox/contracts/delegation-tasks';
import type { TaskUpdated, WebhookUpdated } from '@signalbox/contracts/delegation-updates';
import { newId } from '@signalbox/contracts/ids';
import { idKey, sessionKey } from '@signalbox/contracts/keys';
import type { SourceTopicName } from '@signalbox/contracts/topics';
import type { TurnEnded } from '@signalbox/contracts/turn-results';
import { readValue } from '@signalbox/contracts/validate';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { openSurroundings, type StartOptions } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';

export const tenant = 'acme';
const entry = new URL('./main-with-test-handlers.ts', import.meta.url);

export type Submit = Partial<Omit<TaskSubmitted, 'deadline_at'>> & {
  readonly handler?: string;
  readonly persona?: string;
  readonly deadlineMs?: number;
  readonly replyTo?: string;
  readonly traceparent?: string;
};

const topicNames = [
  'delegation.tasks',
  'delegation.updates',
  'conversation.inbound',
  'turn.results',
  'ui.notifications',
] as const;

/** The rest of the world as delegation-worker sees it: who submits, conversation-worker, who reads what becomes of it. */
export async function startHarness() {
  const around = await openSurroundings({
    topics: [...topicNames, 'jobs.commands', 'jobs.results'],
    env: {
      DATABASE_POOL_SIZE: '3',
      DATABASE_MAX_OVERFLOW: '3',
      DELEGATION_LEASE_MS: '2500',
      WEBHOOK_SIGNING_SECRET: 'the secret of these tests',
      WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
    },
  });
  const { env, database, topics, messaging } = around;
  const read = new Map<SourceTopicName, IntakeRecord[]>(
    topicNames.map((topic) => [topic, around.read(topic)]),
  );
  const recordsOf = (topic: SourceTopicName) => read.get(topic) ?? [];

  const send = (
    topic: 'delegation.tasks' | 'turn.results',
    eventType: string,
    key: string,
    value: object,
    headers: Record<string, string | undefined>,
  ) => around.send({ topic, tenant, key, eventType, value, headers });
  const toTask = (
    id: string,
    eventType: string,
    value: object,
    headers: Record<string, string | undefined> = {},
  ) => send('delegation.tasks', eventType, idKey(tenant, id), value, { correlation_id: id, ...headers });

  const submitted = new Map<string, TaskSubmitted>();
  /** Submits a task; with the id of one that was submitted here, the same again. */
  async function submit(given: Submit): Promise<string> {
    const {
      handler = 'echo',
      persona,
      deadlineMs,
      replyTo = 'delegation-gateway',
      traceparent,
      ...fields
    } = given;
    const id = given.task_id ?? newId();
    const value = submitted.get(id) ?? {
      target: persona === undefined ? { handler } : { persona_id: persona },
      input: {},
      priority: 5,
      depth: 0,
      submitted_at: new Date().toISOString(),
      ...(deadlineMs === undefined ? {} : { deadline_at: new Date(Date.now() + deadlineMs).toISOString() }),
      ...fields,
      task_id: id,
    };
    submitted.set(id, value);
    await toTask(id, 'task.submitted', value, { reply_to: replyTo, traceparent });
    return id;
  }

  const updates = (id: string): TaskUpdated[] =>
    recordsOf('delegation.updates').flatMap((record) =>
      record.eventType === 'task.updated' && record.keyId === id
        ? (readValue('delegation.updates', 'task.updated', record.value) ?? [])
        : [],
    );
  const inbound = (id: string) =>
    recordsOf('conversation.inbound').filter(({ headers }) => headers.correlation_id === id);

  return {
    env,
    database,
    topics,
    messaging,
    submit,
    recordsOf,
    updates,
    /**
     * In their order, each update once (a record may be sent twice). Without `queued`: whether a slot was free at the
     * moment of the intake is the machine's affair.
     */
    statuses: (id: string) =>
      [...new Map(updates(id).map((update) => [update.seq, update])).values()].flatMap(({ status }) =>
        status === 'queued' ? [] : [status],
      ),
    /** Waits until the task has this status and returns that update. */
    async reaches(id: string, status: TaskUpdated['status'], timeoutMs = 15_000): Promise<TaskUpdated> {
      const all = await waitFor(
        () => updates(id),
        (found) => found.some((update) => update.status === status),
        { timeoutMs, label: `${id} ${status}`, intervalMs: 10 },
      );
      const found = all.find((update) => update.status === status);
      if (found === undefined) throw new Error('it was there');
      return found;
    },
    webhookUpdates: (id: string): WebhookUpdated[] =>
      recordsOf('delegation.updates').flatMap((record) =>
        record.eventType === 'webhook.updated' && record.keyId === id
          ? (readValue('delegation.updates', 'webhook.updated', record.value) ?? [])
          : [],
      ),
    cancel: (id: string, reason?: string) =>
      toTask(id, 'task.cancel_requested', {
        task_id: id,
        ...(reason === undefined ? {} : { reason }),
        requested_at: new Date().toISOString(),
      }),
    input: (id: string, input: object, inputId = newId()) =>
      toTask(id, 'task.input_provided', {
        task_id: id,
        input_id: inputId,
        input,
        provided_at: new Date().toISOString(),
      }),
    /** What was asked of conversation-worker for the task. */
    inbound,
    async posted(id: string): Promise<MessagePosted> {
      const [record] = await waitFor(
        () => inbound(id).filter(({ eventType }) => eventType === 'message.posted'),
        (found) => found.length > 0,
        { label: `a message of ${id}` },
      );
      const value = readValue('conversation.inbound', 'message.posted', record?.value);
      if (value === undefined) throw new Error('not a message');
      return value;
    },
    /** Tells, as conversation-worker does, how the turn ended. */
    async turnEnded(
      posted: MessagePosted,
      ended: Partial<TurnEnded> = {},
      headers: Record<string, string> = {},
    ): Promise<void> {
      const { session_id, turn_id, delegation } = posted;
      const value = { session_id, turn_id, outcome: 'final', text: 'done', ...ended };
      await send('turn.results', 'turn.ended', sessionKey(tenant, session_id), value, {
        session_id,
        reply_to: 'delegation-worker',
        correlation_id: delegation?.task_id ?? '',
        ...headers,
      });
    },
    /** Asks for a piece of upkeep as job-worker does. */
    upkeep: (task: string) => around.upkeep('delegation-worker', task),
    start: (more: Record<string, string> = {}, options: StartOptions = {}) =>
      around.start('delegation-worker', more, { entry, ...options }),
    close: around.close,
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;

/** A file that handlers leave lines in. */
export function noteFile(): string {
  return join(mkdtempSync(join(tmpdir(), 'signalbox-test-')), 'notes');
}

export function lines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8')
      .trim()
      .split('\n')
      .filter((line) => line !== '');
  } catch {
    return [];
  }
}
