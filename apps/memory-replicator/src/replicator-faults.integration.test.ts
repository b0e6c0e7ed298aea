import { newId } from '@signalbox/contracts/ids';
import { startSpanCollector } from '@signalbox/testkit/span-collector';
import { waitFor } from '@signalbox/testkit/wait';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Harness, startHarness, type WalRecord } from '../test/replicator-harness.ts';

let harness: Harness;

beforeEach(async () => {
  harness = await startHarness();
});

afterEach(async () => {
  await harness.close();
});

/** So many records over some memories, their versions rising in the order of the topic, some of them deletions. */
function records(count: number, memories: number): { records: WalRecord[]; last: Map<string, number> } {
  const ids = Array.from({ length: memories }, () => newId());
  const last = new Map<string, number>();
  const made = Array.from({ length: count }, (_, place) => {
    const memoryId = ids[place % memories] ?? newId();
    const version = (last.get(memoryId) ?? 0) + 1;
    last.set(memoryId, version);
    const tenant = (place % memories) % 2 === 0 ? 'acme' : 'globex';
    return {
      tenant,
      memoryId,
      version,
      ...(place % 7 === 0 ? { deletedAt: new Date() } : { text: `text ${place}` }),
    };
  });
  return { records: made, last };
}

const versionsOf = (rows: readonly { memory_id: string; version: number }[]) =>
  new Map(rows.map(({ memory_id: id, version }) => [id, version]));

test('killed in the middle of batches it loses nothing and repeats nothing: the replica equals the topic', async () => {
  const { records: all, last } = records(4_000, 900);
  await harness.write(all);
  const quickly = { KAFKA_SESSION_TIMEOUT_MS: '6000' }; // what a member that is gone costs the next one
  await using killed = await harness.start(
    { ...quickly, FAIL_POINT: 'intake.committed:3' },
    { ready: false },
  );
  expect((await killed.exited).signal).toBe('SIGKILL');
  await using service = await harness.start(quickly);
  const rows = await harness.replicated(last);
  expect(rows).toHaveLength(last.size);
  expect(versionsOf(rows)).toEqual(last);
  // Each change was indexed: no search row says what the replica does not.
  await harness.indexed();
  const wrong = await harness.database.query(
    `select 1 from memory_replicator.memories m full join memory_replicator.search s using (tenant, memory_id)
     where (m.deleted_at is null and s.version is distinct from m.version) or (m.deleted_at is not null and s.version is not null)`,
  );
  expect(wrong).toEqual([]);
  expect(await service.metric('service_errors_total')).toBeUndefined();
});

test('two replicas share the partitions, through a rebalance while records come, and hold each memory once', async () => {
  await using first = await harness.start();
  const { records: all, last } = records(3_000, 500);
  const writing = (async () => {
    for (let at = 0; at < all.length; at += 300) await harness.write(all.slice(at, at + 300));
  })();
  await using second = await harness.start();
  await second.log('consumer.assigned', ({ topic }) => topic === 'memory.wal');
  await writing;
  await first.stop();
  const rows = await harness.replicated(last);
  expect(versionsOf(rows)).toEqual(last);
  expect(rows).toHaveLength(last.size);
});

test('the lag grows while nobody reads, is never negative, and is 0 when it has caught up', async () => {
  await using service = await harness.start();
  await harness.write([{ text: 'one' }]);
  const lag = () => service.metric('memory_wal_lag_seconds');
  await waitFor(lag, (seconds) => seconds === 0, { label: 'a lag of 0' });
  // The table cannot be written to: nothing is replicated, and the process stands.
  await harness.database.query(
    'revoke insert on memory_replicator.memories from signalbox_memory_replicator',
  );
  const [held = ''] = await harness.write([{ text: 'two' }]);
  const seen: number[] = [];
  await waitFor(
    async () => {
      const seconds = (await lag()) ?? 0;
      seen.push(seconds);
      return seconds;
    },
    (seconds) => seconds > 3,
    { label: 'a lag of more than 3 s', timeoutMs: 20_000, intervalMs: 100 },
  );
  expect(seen.every((seconds) => seconds >= 0)).toBe(true);
  const growing = seen.filter((seconds) => seconds > 0);
  expect([...growing].sort((a, b) => a - b)).toEqual(growing);
  await harness.database.query('grant insert on memory_replicator.memories to signalbox_memory_replicator');
  await harness.replicated(new Map([[held, 1]]));
  await waitFor(lag, (seconds) => seconds === 0, { label: 'a lag of 0 again', timeoutMs: 20_000 });
});

test('a record is part of the trace of whoever wrote it', async () => {
  await using collector = await startSpanCollector();
  await using service = await harness.start({
    TRACING_ENABLED: 'true',
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
  });
  const traceId = newId().replaceAll('-', '');
  const [id = ''] = await harness.write([
    { text: 'traced', traceparent: `00-${traceId}-00000000000000aa-01` },
  ]);
  await harness.replicated(new Map([[id, 1]]));
  await service.stop();
  const spans = await collector.untilTrace(traceId, (found) => found.length > 0);
  expect(spans.map(({ name }) => name)).toContain('process memory.wal');
});
