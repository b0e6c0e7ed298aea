import { newId } from '@signalbox/contracts/ids';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { silentLog } from '@signalbox/telemetry/silent';
import { expect, it } from 'vitest';
import { type BootTable, bootTable } from '../test/boot-table.ts';
import { createAppendEvents } from './append-events.ts';
import { createPartitionRebuild } from './partition-rebuild.ts';
import type { StreamEvent } from './stream-event.ts';

function gateway(table: BootTable) {
  const stored: StreamEvent[] = [];
  const seeks: number[] = [];
  const rebuild = createPartitionRebuild({
    streams: table.streams,
    log: {
      async seekBack(partition) {
        seeks.push(partition);
        return { from: 0n, end: 9n };
      },
    },
    rebuildSeconds: 900,
    epoch: 1,
    logger: silentLog,
    onRebuild: () => undefined,
  });
  const { append, settled } = createAppendEvents({
    streams: table.streams,
    rebuild,
    async storeEvents(events) {
      stored.push(...events);
      return events.map(() => ({ outcome: 'stored', sqlState: undefined }));
    },
    epoch: 1,
    count: () => undefined,
  });
  rebuild.assigned([0]);
  return { append, settled, rebuild, stored, seeks };
}

const sessionId = newId();

function final(offset: bigint): IntakeRecord {
  return {
    topic: 'conversation.outbound',
    partition: 0,
    offset,
    key: `acme:${sessionId}`,
    tenant: 'acme',
    keyId: sessionId,
    sessionId,
    eventId: newId(),
    eventType: 'assistant.final',
    schema: 'conversation.outbound.v1',
    headers: {},
    value: { turn_id: newId(), attempt: 1 },
    bytes: null,
    timestampMs: 0,
    traceparent: undefined,
  };
}

it('appends a batch whose partition a former owner makes whole in this moment', async () => {
  const table = bootTable();
  table.boot.set(0, 'token of A');
  const { append, stored, seeks } = gateway({
    ...table,
    streams: {
      ...table.streams,
      async standingOf(partition) {
        table.boot.set(0, 'ready'); // A's rebuild ends before it is looked at here
        table.reached.set(0, { epoch: 1, position: 6n });
        return await table.streams.standingOf(partition);
      },
    },
  });
  await append(0, [final(7n)]);
  expect([stored.length, table.appended.length, seeks.length]).toEqual([1, 1, 0]);
});

it('is not done with a batch when somebody else takes the rebuild', async () => {
  const table = bootTable();
  const { append } = gateway({
    ...table,
    streams: {
      ...table.streams,
      async markBoot(partition, from, to) {
        if (to !== 'ready') table.boot.set(0, 'token of C');
        return await table.streams.markBoot(partition, from, to);
      },
    },
  });
  await expect(append(0, [final(7n)])).rejects.toMatchObject({ code: 'REDIS_UNAVAILABLE', retryable: true });
  expect(table.appended).toEqual([]);
});

it('is not done with a batch when it was sent back, nor with one that came behind the seek of the check', async () => {
  const table = bootTable();
  const { append, rebuild, seeks } = gateway(table);
  const checking = rebuild.check();
  await expect(append(0, [final(7n)])).rejects.toMatchObject({ retryable: true });
  await checking;
  expect([table.appended, seeks]).toEqual([[], [0]]);
  await append(0, [final(0n)]); // from where it was sent back to
  expect(table.appended).toHaveLength(1);
});

it('is not done with a batch when Redis is emptied under it, and begins one rebuild for it', async () => {
  const table = bootTable();
  table.boot.set(0, 'ready');
  table.reached.set(0, { epoch: 1, position: 6n });
  const { append, rebuild, seeks } = gateway({
    ...table,
    streams: {
      ...table.streams,
      async append(...args) {
        if (seeks.length === 0) {
          table.boot.clear();
          await rebuild.check(); // finds it a moment before the batch does
        }
        return await table.streams.append(...args);
      },
    },
  });
  await expect(append(0, [final(7n)])).rejects.toMatchObject({ retryable: true });
  expect([table.appended, seeks]).toEqual([[], [0]]);
  await append(0, [final(8n)]);
  expect(table.boot.get(0)).toBe('ready');
});

it('ends a rebuild whose last record is buried, and keeps that the partition is whole up to it', async () => {
  const table = bootTable();
  const { append, settled, rebuild } = gateway(table);
  await rebuild.check();
  await append(0, [final(7n)]);
  expect(table.boot.get(0)).not.toBe('ready');
  await settled({ partition: 0, first: 8n, next: 9n });
  expect(table.boot.get(0)).toBe('ready');
  expect(table.reached.get(0)).toEqual({ epoch: 1, position: 8n });
  await settled({ partition: 0, first: 9n, next: 10n });
  expect(table.reached.get(0)).toEqual({ epoch: 1, position: 9n });
  table.boot.clear();
  await expect(settled({ partition: 0, first: 10n, next: 11n })).rejects.toMatchObject({ retryable: true });
});
