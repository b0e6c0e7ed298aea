import { createHash } from 'node:crypto';
import { newId } from '@signalbox/contracts/ids';
import { sessionKey } from '@signalbox/contracts/keys';
import type { ToolCatalogued } from '@signalbox/contracts/tool-catalog';
import type { ToolCancelRequested, ToolRequested } from '@signalbox/contracts/tool-requests';
import type { ToolOutcomeReported } from '@signalbox/contracts/tool-results';
import { readValue } from '@signalbox/contracts/validate';
import { openSurroundings, type StartOptions } from '@signalbox/testkit/surroundings';
import { waitFor } from '@signalbox/testkit/wait';
import type { Tool } from '../src/tools/tool.ts';

export const tenant = 'acme';
const entry = new URL('./main-with-limit-tools.ts', import.meta.url);

export interface Ask {
  readonly tool: string;
  readonly arguments?: object;
  readonly session?: string;
  readonly callId?: string;
  readonly deadlineMs?: number;
  readonly replyTo?: string;
  readonly traceparent?: string;
}

/** A call that was asked for, as a cancel names it. */
type AskedCall = Omit<ToolCancelRequested, 'call_id'>;

/** The rest of the world as tool-executor sees it: who asks, who reads the answers, the database behind. */
export async function startHarness(tools: readonly Tool[]) {
  const around = await openSurroundings({
    topics: ['tool.requests', 'tool.results', 'tool.catalog', 'jobs.commands', 'jobs.results'],
    env: {
      DATABASE_POOL_SIZE: '3',
      DATABASE_MAX_OVERFLOW: '3',
      TOOL_EXECUTOR_CPU_SECONDS: '1',
      TOOL_EXECUTOR_MEMORY_MB: '64',
      TOOL_EXECUTOR_OUTPUT_BYTES: '10000',
      TOOL_EXECUTOR_LEASE_MS: '2500',
    },
  });
  const { env, database, topics, own } = around;
  for (const { name } of tools) {
    await database.query('INSERT INTO tool_executor.tools (tenant, name) VALUES ($1, $2)', [tenant, name]);
  }
  const results = around.read('tool.results');
  const catalog = around.read('tool.catalog');

  const asked = new Map<string, AskedCall>();
  const request = (
    eventType: 'tool.requested' | 'tool.cancel_requested',
    of: string,
    value: ToolRequested | ToolCancelRequested,
    headers: Record<string, string | undefined>,
  ) =>
    around.send({
      ...{ topic: 'tool.requests', tenant: of, eventType, value },
      key: sessionKey(of, value.session_id),
      headers: { session_id: value.session_id, correlation_id: value.call_id, ...headers },
    });

  async function ask(given: Ask): Promise<string> {
    const turn = newId();
    const callId = given.callId ?? createHash('sha256').update(turn).digest('hex').slice(0, 32);
    // One that is asked for again is of the same turn and session.
    const session = given.session ?? newId();
    const call = asked.get(callId) ?? { turn_id: turn, session_id: session, step: 1, tool: given.tool };
    asked.set(callId, call);
    const value = {
      ...call,
      call_id: callId,
      attempt: 1,
      arguments: { ...given.arguments },
      deadline_at: new Date(Date.now() + (given.deadlineMs ?? 30_000)).toISOString(),
      idempotency_key: `key of ${callId}`,
    };
    await request('tool.requested', tenant, value, {
      reply_to: given.replyTo ?? 'conversation-worker',
      traceparent: given.traceparent,
    });
    return callId;
  }

  /** Asks for the end of a call that was asked for here, or of one that nobody has asked for. */
  async function cancel(callId: string, by = tenant): Promise<void> {
    const call = asked.get(callId) ?? { turn_id: newId(), session_id: newId(), step: 1, tool: 'sleep' };
    await request('tool.cancel_requested', by, { ...call, call_id: callId }, {});
  }

  const records = (callId: string) => results.filter(({ headers }) => headers.correlation_id === callId);
  const outcomes = (callId: string): ToolOutcomeReported[] =>
    records(callId).flatMap(({ value, eventType }) =>
      eventType === 'tool.outcome' ? (readValue('tool.results', 'tool.outcome', value) ?? []) : [],
    );

  return {
    env,
    database,
    topics,
    ask,
    /** One piece of upkeep, asked for as job-worker does. */
    upkeep: (task: string, limit: number) => around.upkeep('tool-executor', task, { limit }),
    cancel,
    /** The same as the intake of another replica does it. Answers what the call was. */
    async cancelElsewhere(callId: string): Promise<string | undefined> {
      const sql = `SELECT was FROM tool_executor.work_cancel($1, $2, NULL, '{}')`;
      return (await own.query<{ was: string }>(sql, [tenant, callId]))[0]?.was;
    },
    /** Answers to a call, in the order of the topic. */
    records,
    /** Waits for so many outcomes of a call and returns the last. */
    async outcome(callId: string, count = 1, timeoutMs = 15_000): Promise<ToolOutcomeReported> {
      const all = await waitFor(
        () => outcomes(callId),
        (found) => found.length >= count,
        { timeoutMs, label: `outcome ${count} of ${callId}`, intervalMs: 5 },
      );
      const last = all.at(-1);
      if (last === undefined) {
        throw new Error('no outcome was asked for');
      }
      return last;
    },
    outcomes,
    catalog: (): ToolCatalogued[] =>
      catalog.flatMap(({ value }) => readValue('tool.catalog', 'tool.catalogued', value) ?? []),
    /** Starts the service with the tools that reach the limits. */
    start: (more: Record<string, string> = {}, options: StartOptions = {}) =>
      around.start('tool-executor', more, { entry, ...options }),
    close: around.close,
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
