import { createHash } from 'node:crypto';
import { headerNames } from '@signalbox/contracts/headers';
import { hashId } from '@signalbox/contracts/memory-ids';
import { readValue } from '@signalbox/contracts/validate';
import { fault } from '@signalbox/faults/fault';
import type { IntakeHandler, IntakeRecord } from '@signalbox/messaging/messaging';
import type { Logger } from '@signalbox/telemetry/telemetry';
import type { Worker } from '@signalbox/work/worker';
import type { Change, MemoryStore } from './memory-store.ts';
import { pushRow } from './push-row.ts';
import { walMessage } from './wal-messages.ts';

export interface TakeWritesParts {
  readonly store: MemoryStore;
  /** Undefined without a memory backend: then what is stored goes to memory.wal in the intake's own transaction. */
  readonly worker: Pick<Worker, 'enqueue' | 'queue'> | undefined;
  readonly log: Logger;
}

/** Keys that one transaction may put records of (each takes a lock of the server), and so memories of one call. */
const maxMemories = 256;

/** Intake of memory.writes: each memory and each deletion is stored once, whatever comes again. */
export function takeWrites({ store, worker, log }: TakeWritesParts): IntakeHandler {
  return async (records, tx, context) => {
    const changes = records.flatMap((record) => changesOf(record).map((change) => ({ change, record })));
    if (changes.length > maxMemories && records.length > 1) {
      // Before any statement: the runner comes again with each half. One record holds 64 at most.
      throw fault('INTERNAL_ERROR', `${changes.length} memories are too many for one transaction`);
    }
    if (worker !== undefined) {
      await worker.queue.lock(
        tx,
        changes.map(({ change: { tenant, memoryId } }) => ({ tenant, key: memoryId })),
      );
    }
    const stored = await store.store(
      tx,
      changes.map(({ change }) => change),
      worker !== undefined,
    );
    context.duplicates(changes.length - stored.length);
    const versions = stored.flatMap(({ place, version, pushId }) => {
      const found = changes[place];
      if (found === undefined) return [];
      const { change, record } = found;
      const { traceparent, headers } = record;
      return [{ ...change, version, pushId, traceparent, requestId: headers[headerNames.requestId] }];
    });
    tx.afterCommit(() => {
      if (stored.length < changes.length) {
        log.debug('memory.repeated', { count: changes.length - stored.length });
      }
    });
    if (worker === undefined) {
      return versions.map((version) => walMessage(version, version));
    }
    await worker.enqueue(tx, versions.map(pushRow));
    return [];
  };
}

function changesOf({ tenant, eventType, value }: IntakeRecord): Change[] {
  if (eventType === 'memory.delete_requested') {
    const asked = readValue('memory.writes', 'memory.delete_requested', value);
    if (asked === undefined) throw unchecked();
    const memoryId = asked.memory_id;
    const idempotencyKey = createHash('sha256').update(`delete ${tenant} ${memoryId}`).digest('hex');
    return [{ tenant, memoryId, idempotencyKey, isFirst: false, item: undefined }];
  }
  const asked = readValue('memory.writes', 'memory.write_requested', value);
  if (asked === undefined) throw unchecked();
  return asked.memories.map((item) => ({
    tenant,
    memoryId: item.memory_id,
    idempotencyKey: item.idempotency_key,
    isFirst: hashId(item.idempotency_key) === item.memory_id,
    item,
  }));
}

function unchecked(): Error {
  return new Error('the runner hands over checked records only');
}
