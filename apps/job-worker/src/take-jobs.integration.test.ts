import { newId } from '@signalbox/contracts/ids';
import type { JobRequested } from '@signalbox/contracts/jobs';
import { idKey } from '@signalbox/contracts/keys';
import type { IntakeRecord } from '@signalbox/messaging/messaging';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase } from '@signalbox/testkit/database';
import { expect, test } from 'vitest';
import { jobStore } from './job-store.ts';
import { takeJobs } from './take-jobs.ts';

function recordOf(tenant: string): IntakeRecord {
  const value: JobRequested = {
    ...{ job_id: newId(), kind: 'export_memory', arguments: {}, requested_at: new Date().toISOString() },
  };
  return {
    ...{ topic: 'jobs.commands', partition: 0, offset: 0n, key: idKey(tenant, value.job_id), tenant },
    ...{ keyId: value.job_id, sessionId: '', eventId: newId(), eventType: 'job.requested' },
    ...{ schema: 'jobs.commands.v1', headers: {}, value, bytes: null, timestampMs: Date.now() },
    traceparent: undefined,
  };
}

test('two partitions with the first jobs of the same tenants do not wait for each other in a ring', async () => {
  await using database = await createTestDatabase();
  const own = openDatabase({
    ...{ url: database.url, poolSize: 4, maxOverflow: 2, poolTimeoutMs: 5_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
  const store = jobStore(own, { put: async () => undefined });
  const both = Promise.withResolvers<void>();
  let begun = 0;
  const take = () =>
    takeJobs({
      database: own,
      store: {
        async take(tx, taken) {
          const fresh = await store.take(tx, taken);
          begun += 1;
          // Each has a job in its hands before either goes on, where the order of the tenants allows it.
          if (begun === 2) both.resolve();
          await Promise.race([both.promise, new Promise((resolve) => setTimeout(resolve, 300))]);
          return fresh;
        },
      },
      ...{ duplicates: () => undefined, consumer: 'test', log: silentLog },
    });
  const context = { signal: new AbortController().signal };
  await take()([recordOf('first')], context);
  begun = 0;
  await Promise.all([
    take()([recordOf('one'), recordOf('two')], context),
    take()([recordOf('two'), recordOf('one')], context),
  ]);
  const rows = await database.query<{ n: number }>('select count(*)::int as n from graphile_worker.jobs');
  expect(rows[0]?.n).toBe(5);
  await own.close();
});
