import type { MemoryItem } from '@signalbox/contracts/memory-writes';
import { asFault, type Fault, fault, isFault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import { runWithContext } from '@signalbox/telemetry/context';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import { attribute, currentTraceparent, withSpan } from '@signalbox/telemetry/trace';
import type { WorkQueue } from '@signalbox/work/queue';
import type { Lease, WorkerOptions, WorkItem } from '@signalbox/work/worker';
import { coalesced } from './coalesce.ts';
import type { MemoryBackend } from './memory-backend.ts';
import type { MemoryStore, PushContent } from './memory-store.ts';
import { readPush } from './push-row.ts';
import { failedMessage, walMessage } from './wal-messages.ts';

export interface PushParts {
  readonly database: Database;
  readonly store: MemoryStore;
  /** Undefined: there is none any more, and what waited for it goes to memory.wal as it is. */
  readonly backend: MemoryBackend | undefined;
  readonly queue: () => Pick<WorkQueue, 'finish'>;
  readonly retryMinMs: number;
  readonly log: Logger;
  readonly metrics: Metrics;
}

/** Memories of one request; their texts are 32 768 code units each at most. */
const largestBatch = 64;
const storeAgainMs = 250;
/** A breaker that is half open has one call under way; how that ends is known soon. */
const longestWaitMs = 1_000;

/** What the worker runs of a version that waits, and what it does when its tries are spent. */
export function pushMemories(parts: PushParts): Required<Pick<WorkerOptions, 'run' | 'giveUp'>> {
  const { store, backend, log, metrics } = parts;
  const pushed = metrics.counter('memory_sync_pushes_total', {
    help: 'Versions of memories whose push ended: stored, superseded, failed.',
    labels: ['outcome'],
  });

  const contents = coalesced(256, store.contents);
  const remembered = coalesced(
    largestBatch,
    async (
      memories: readonly { tenant: string; memory: Parameters<MemoryBackend['remember']>[1][number] }[],
    ) =>
      await (backend?.remember(
        memories[0]?.tenant ?? '',
        memories.map(({ memory }) => memory),
      ) ?? memories.map(() => undefined)),
    ({ tenant }) => tenant,
  );

  /** Until the backend has it. @throws what `remember` answers, and the signal's reason. */
  async function handOver(
    item: WorkItem,
    push: ReturnType<typeof readPush>,
    { idempotencyKey }: PushContent,
    memory: MemoryItem | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    if (backend === undefined) return;
    const { tenant, memoryId, version } = push;
    const traceparent = currentTraceparent();
    for (let waits = 0; ; waits += 1) {
      signal.throwIfAborted();
      const failure =
        memory === undefined
          ? await backend.forget(tenant, memoryId, version, idempotencyKey).then(() => undefined, asFault)
          : await orAborted(
              remembered({ tenant, memory: { version, idempotencyKey, item: memory, traceparent } }),
              signal,
            );
      if (failure === undefined) return;
      if (failure.code !== 'BREAKER_OPEN') throw atLeast(failure, parts.retryMinMs);
      // The backend was not asked, so it is no try: the version keeps its lane and its place until it may be.
      if (waits === 0) log.debug('memory.push_waits', { memoryId, attempt: item.attempt });
      await pause(Math.min(failure.retryAfterMs ?? longestWaitMs, longestWaitMs), signal);
    }
  }

  async function run(item: WorkItem, lease: Lease): Promise<void> {
    const push = readPush(item);
    const content = await contents(push);
    if (content === undefined) {
      await parts.queue().finish(parts.database, item, lease, 'done');
      pushed.add(1, { outcome: 'superseded' });
      return;
    }
    await inPush(item, push, 'push memory', async () => {
      const memory = content.item();
      await handOver(item, push, content, memory, lease.signal);
      failPoint('push.done');
      const message = walMessage({ ...push, item: memory }, { requestId: push.requestId });
      await persistently(lease, () => store.finish(item, lease, push.version, message));
      pushed.add(1, { outcome: 'stored' });
    });
  }

  async function giveUp(item: WorkItem, lease: Lease, error: unknown): Promise<void> {
    const push = readPush(item);
    await inPush(item, push, 'give up memory', async () => {
      const { code, message } = asFault(error);
      const told = failedMessage({ ...push, item: undefined }, code);
      await persistently(lease, () => store.fail(item, lease, push.version, `${code}: ${message}`, told));
      pushed.add(1, { outcome: 'failed' });
      log.error('memory.push_failed', {
        memoryId: push.memoryId,
        memoryVersion: push.version,
        attempt: item.attempt,
        error,
      });
    });
  }

  return { run, giveUp };
}

/** In the trace and with the log fields of the write. */
async function inPush(
  item: WorkItem,
  { tenant, memoryId, version, requestId }: ReturnType<typeof readPush>,
  name: string,
  act: () => Promise<void>,
): Promise<void> {
  const attributes = {
    'signalbox.memory_id': memoryId,
    'signalbox.memory_version': version,
    [attribute.tenantId]: tenant,
    [attribute.attempt]: item.attempt,
  };
  await runWithContext({ tenantId: tenant, ...(requestId === undefined ? {} : { requestId }) }, () =>
    withSpan(name, { attributes, parent: item.traceparent }, act),
  );
}

/** A pause that begins at nothing would be none: the least is the first of the backoff. */
function atLeast(failure: Fault, minMs: number): Error {
  if (!failure.retryable || (failure.retryAfterMs ?? 0) >= minMs) return failure;
  const { code, message, cause, details } = failure;
  return fault(code, message, { cause, retryAfterMs: minMs, ...(details === undefined ? {} : { details }) });
}

/** What is on its way is not called back for that: who pushes next does so under the same key. */
async function orAborted<T>(result: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    signal.throwIfAborted();
    return await Promise.race([result, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
    result.catch(() => undefined);
  }
}

/** Repeats while the lease lasts and the database is away: the backend has it, and would be asked for the same again. */
async function persistently<T>(lease: Lease, ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!isFault(error, 'DATABASE_UNAVAILABLE') || lease.signal.aborted) throw error;
      await pause(storeAgainMs, lease.signal);
    }
  }
}
