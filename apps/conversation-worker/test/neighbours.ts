import type { TaskCancelRequested, TaskSubmitted } from '@signalbox/contracts/delegation-tasks';
import { delegationUpdatesSchema, type TaskUpdated } from '@signalbox/contracts/delegation-updates';
import type { MemoryRole } from '@signalbox/contracts/fields';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import type { MemoryRecallRequested, RecalledMemory } from '@signalbox/contracts/memory-recall';
import type { MemoryWriteRequested } from '@signalbox/contracts/memory-writes';
import type { TurnEnded } from '@signalbox/contracts/turn-results';
import { openAnswerer } from '@signalbox/messaging/answerer';
import { type Asker, openAsker } from '@signalbox/messaging/asker';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { askUpkeep } from '@signalbox/messaging/upkeep';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { waitFor } from '@signalbox/testkit/wait';
import { type Conversation, tenant } from './conversation.ts';

/** A record that the worker has sent to a neighbour. */
export interface Sent<Value> {
  readonly key: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly value: Value;
}

export interface PersonaSettings {
  readonly memory?: Readonly<Record<string, unknown>>;
  readonly delegates?: readonly Readonly<Record<string, string>>[];
}

/** The services around the worker besides gateway and executor: those of memory, delegation-worker and job-worker. */
export class Neighbours {
  readonly asked: Sent<MemoryRecallRequested>[] = [];
  readonly writes: Sent<MemoryWriteRequested>[] = [];
  readonly tasks: Sent<TaskSubmitted>[] = [];
  readonly taskCancels: Sent<TaskCancelRequested>[] = [];
  readonly ended: Sent<TurnEnded>[] = [];
  /** What is recalled; the answer is sent when it resolves. */
  recall: (query: string) => Promise<RecalledMemory[]> = async () => [];
  readonly #conversation: Conversation;
  readonly #jobs: Asker<'jobs.commands', 'jobs.results'>;

  constructor(conversation: Conversation) {
    this.#conversation = conversation;
    const { messaging } = conversation;
    openAnswerer({
      ...{ messaging, service: 'memory-replicator', log: silentLog, metrics: silentMetrics, concurrency: 16 },
      ...{ requests: 'memory.recall.requests', results: 'memory.recall.results', refused: 'memory.refused' },
      answers: {
        'memory.recall_requested': async (record) => {
          this.asked.push(sent(record));
          const memories = await this.recall(record.value.query);
          return { eventType: 'memory.recalled', value: { memories, took_ms: 1 } };
        },
      },
    });
    this.#jobs = openAsker({
      ...{ messaging, service: 'job-worker', log: silentLog, metrics: silentMetrics },
      ...{ requests: 'jobs.commands', results: 'jobs.results' },
    });
    const keep = <Value>(into: Sent<Value>[]) => ({
      group: 'test-neighbours',
      handler: async (records: readonly IntakeRecord[]) => {
        for (const record of records) into.push(sent(record));
      },
    });
    messaging.consumeRaw({ topic: 'memory.writes', ...keep(this.writes) });
    messaging.consumeRaw({ topic: 'turn.results', ...keep(this.ended) });
    messaging.consumeRaw({
      topic: 'delegation.tasks',
      group: 'test-neighbours',
      handler: async (records) => {
        for (const record of records) {
          if (record.eventType === 'task.submitted') this.tasks.push(sent(record));
          else this.taskCancels.push(sent(record));
        }
      },
    });
  }

  async persona(personaId: string, { memory = {}, delegates = [] }: PersonaSettings): Promise<void> {
    await this.#conversation.persona(personaId);
    await this.#conversation.database.query(
      `update conversation_worker.personas set memory = $3, delegates = $4 where tenant = $1 and persona_id = $2`,
      [tenant, personaId, memory, JSON.stringify(delegates)],
    );
  }

  /** Has the worker do one piece of upkeep. */
  async upkeep(task: string, limit: number): Promise<{ done: number; more: boolean }> {
    const owner = 'conversation-worker';
    const { done, more } = await askUpkeep(this.#jobs, { owner, task, limit, deadlineMs: 10_000 });
    return { done, more };
  }

  tasksOf(turnId: string): Sent<TaskSubmitted>[] {
    return this.tasks.filter(({ value }) => value.origin?.turn_id === turnId);
  }

  /** The n-th task (from 0) of a turn. */
  task(turnId: string, n = 0): Promise<Sent<TaskSubmitted>> {
    return found(() => this.tasksOf(turnId)[n], `task ${n} of ${turnId}`);
  }

  taskCancel(taskId: string): Promise<Sent<TaskCancelRequested>> {
    return found(() => this.taskCancels.find(({ value }) => value.task_id === taskId), `end of ${taskId}`);
  }

  endedOf(turnId: string): Sent<TurnEnded>[] {
    return this.ended.filter(({ value }) => value.turn_id === turnId);
  }

  end(turnId: string): Promise<Sent<TurnEnded>> {
    return found(() => this.endedOf(turnId)[0], `turn.ended of ${turnId}`);
  }

  written(turnId: string): Promise<Sent<MemoryWriteRequested>> {
    return found(
      () => this.writes.find(({ value }) => value.memories.some((memory) => memory.turn_id === turnId)),
      `memories of ${turnId}`,
    );
  }

  /** Tells of a task as delegation-worker does. */
  async update(
    { value, headers }: Sent<TaskSubmitted>,
    more: Pick<TaskUpdated, 'seq' | 'status'> & Partial<TaskUpdated>,
    eventId = newId(),
  ): Promise<void> {
    const { task_id, target, depth, priority, origin, submitted_at } = value;
    const updated_at = new Date().toISOString();
    await this.#conversation.send({
      ...{ topic: 'delegation.updates', key: idKey(tenant, task_id), tenant, eventId },
      ...{ eventType: 'task.updated', schema: delegationUpdatesSchema, correlationId: task_id },
      ...{ replyTo: 'conversation-worker', traceparent: headers.traceparent },
      value: {
        ...{ task_id, target, depth, priority, origin, submitted_at, updated_at, attempt: 1, ...more },
      },
    });
  }

  /** The same for its good end. */
  complete(task: Sent<TaskSubmitted>, text: string, seq = 9): Promise<void> {
    return this.update(task, { seq, status: 'completed', result: { text } });
  }
}

export function memory(text: string, role: MemoryRole = 'note'): RecalledMemory {
  const occurred_at = '2026-01-02T03:04:05.000Z';
  return { memory_id: newId(), version: 1, namespace: 'default', role, text, occurred_at, score: 0.5 };
}

function sent<Value>({ key, headers, value }: IntakeRecord): Sent<Value> {
  return { key, headers, value: value as Value };
}

function found<T>(look: () => T | undefined, label: string): Promise<T> {
  return waitFor(look, (it): it is NonNullable<typeof it> => it !== undefined, { label, timeoutMs: 20_000 });
}
