import { newId } from '@signalbox/contracts/ids';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { createTestDatabase } from '@signalbox/testkit/database';
import { workQueue } from '@signalbox/work/queue';
import { expect, it } from 'vitest';
import { outcomeMessage, outcomeValue } from './answers.ts';
import { callStore } from './call-store.ts';

it('a call writes its row twice, its lane twice and its answer once (delivery rule 30), and keeps the answer', async () => {
  await using own = await createTestDatabase();
  const database = openDatabase({
    ...{ url: own.url, poolSize: 1, maxOverflow: 0, poolTimeoutMs: 3_000, poolRecycleMs: 600_000 },
    ...{ applicationName: 'call-rows', log: silentLog, metrics: silentMetrics },
  });
  const owner = newId();
  const queue = workQueue(database, 'tool_executor');
  const call = { call_id: 'a'.repeat(32), turn_id: newId(), session_id: newId(), step: 1 };
  const request = {
    ...{ ...call, tool: 'calculator', arguments: {}, attempt: 1, idempotency_key: call.call_id },
    deadline_at: new Date().toISOString(),
  };
  const payload = { request, record_key: `acme:${call.session_id}` };
  const row = { tenant: 'acme', id: newId(), key: call.call_id, payload };
  await database.transaction(async (tx) => {
    const { claims } = await queue.enqueueAndClaim(tx, [row], 1, { owner, leaseMs: 5_000, formats: [1] });
    const [claim] = claims;
    if (claim === undefined) throw new Error('nothing was claimed');
    const store = callStore(tx, { writer: owner, committed: () => {}, failed: () => {} });
    const { fence } = claim;
    const lease = {
      owner,
      fence,
      signal: new AbortController().signal,
      holds: () => true,
      cancelled: () => undefined,
    };
    const outcome = outcomeValue(request, { outcome: 'ok', output: '408', truncated: false, duration_ms: 1 });
    await store.finish(claim.item, lease, outcome, outcomeMessage('acme', payload, outcome));
    const rows = await tx.query<{ name: string; n: string }>(
      `select schemaname || '.' || relname as name, n_tup_ins + n_tup_upd + n_tup_del as n
       from pg_stat_xact_user_tables where n_tup_ins + n_tup_upd + n_tup_del > 0`,
    );
    expect(Object.fromEntries(rows.map(({ name, n }) => [name, Number(n)]))).toEqual({
      'tool_executor.calls': 2,
      'tool_executor.lanes': 2,
      'messaging.outbox': 1,
    });
    expect([...(await store.outcomes(tx, [row])).values()]).toEqual([outcome]);
  });
  await database.close();
});
