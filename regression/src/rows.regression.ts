import { sleep, waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger } from './ledger.ts';
import { type MessageKind, makeMessage } from './messages.ts';
import type { Talk } from './talk.ts';

const turns = 50;
/** A backend of Postgres that has become idle reports what it has counted after ten seconds at the latest. */
const reportMs = 10_500;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({ proxies: false });
});
afterAll(() => cluster?.close());

/** Rows inserted, updated and deleted so far, by table. */
async function rowsWritten(): Promise<Map<string, number>> {
  await sleep(reportMs);
  const rows = await cluster.database.query<{ name: string; n: string }>(
    // Each relay renews its own row once a second, whatever else goes on.
    `select schemaname || '.' || relname as name, n_tup_ins + n_tup_upd + n_tup_del as n
     from pg_stat_user_tables where relname <> 'outbox_relays'`,
  );
  return new Map(rows.map(({ name, n }) => [name, Number(n)]));
}

async function sayOneByOne(talk: Talk, kind: MessageKind, times: number): Promise<void> {
  for (let index = 0; index < times; index += 1) {
    await talk.say(makeMessage(kind, { toolLog: cluster.toolLog }));
    await waitFor(
      () => talk.open().length,
      (open) => open === 0,
      { label: 'the answer', timeoutMs: 30_000 },
    );
  }
}

interface Written {
  readonly rows: number;
  readonly byTable: Readonly<Record<string, number>>;
}

function perTurn(before: ReadonlyMap<string, number>, after: ReadonlyMap<string, number>): Written {
  const byTable = [...after]
    .map(([name, count]) => [name, (count - (before.get(name) ?? 0)) / turns] as const)
    .filter(([, count]) => count > 0)
    .sort(([, one], [, other]) => other - one);
  return { rows: byTable.reduce((sum, [, count]) => sum + count, 0), byTable: Object.fromEntries(byTable) };
}

test('a plain turn writes at most 25 rows over all services, one with a tool call at most 40', async () => {
  const ledger = createLedger(cluster);
  const talks = Array.from({ length: 5 }, (_, index) => ledger.open(index % 2 === 0 ? 0 : 1));
  const sayAll = async (kind: MessageKind, times: number) => {
    await Promise.all(talks.map((talk) => sayOneByOne(talk, kind, times)));
    await cluster.settle();
  };
  // Sessions, connections and processes of tools are there.
  await sayAll('plain', 1);
  await sayAll('tool', 1);
  const before = await rowsWritten();
  await sayAll('plain', turns / talks.length);
  const between = await rowsWritten();
  await sayAll('tool', turns / talks.length);
  const after = await rowsWritten();
  const [plain, tool] = [perTurn(before, between), perTurn(between, after)];
  console.log(JSON.stringify({ turns, plain, tool }));
  await ledger.check();
  ledger.close();
  expect(plain.rows).toBeLessThanOrEqual(25);
  expect(tool.rows).toBeLessThanOrEqual(40);
  // Fewer than an accept, a turn and its events are: then it was not counted.
  expect(plain.rows).toBeGreaterThan(5);
});
