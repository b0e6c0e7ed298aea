import { setTimeout as delay } from 'node:timers/promises';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, onTestFailed, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { type Held, heldBy, inspected } from './heap.ts';
import { createLedger } from './ledger.ts';
import { makeMessage } from './messages.ts';
import { send } from './request.ts';

const bound = 100;
const floodMs = 120_000;
/** Posts a second. The stand-in's pace below lets two turns at once end about four a second. */
const offeredPerSecond = 60;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    ...{ gateways: 1, workers: 1, executors: 1, relays: 1, proxies: false },
    settingsOf: {
      gateway: { TENANT_MAX_OPEN_TURNS: String(bound), ...inspected },
      'conversation-worker': { TURNS_MAX_ACTIVE: '2', ...inspected },
    },
  });
});
afterAll(() => cluster?.close());

/** Posts at a steady rate for `floodMs`, each message a session of its own, and counts the answers by status. */
async function flood(
  url: string,
  key: string,
): Promise<{ turnIds: string[]; statuses: Map<number, number>; withoutRetryAfter: number }> {
  const turnIds: string[] = [];
  const statuses = new Map<number, number>();
  let withoutRetryAfter = 0;
  const post = async () => {
    const { status, body, headers } = await send(`${url}/v1/session/message`, {
      key,
      body: { message: 'say one two three four five six seven eight' },
      timeoutMs: 20_000,
    }).catch(() => ({ status: 0, body: '', headers: {} as Record<string, string> }));
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
    if (status === 202) turnIds.push(JSON.parse(body).turn_id);
    if (status === 429 && headers['retry-after'] === undefined) withoutRetryAfter += 1;
  };
  const startedAt = performance.now();
  const posts: Promise<void>[] = [];
  for (let sent = 0; performance.now() - startedAt < floodMs; ) {
    const due = ((performance.now() - startedAt) / 1_000) * offeredPerSecond;
    for (; sent < due; sent += 1) posts.push(post());
    await delay(5);
  }
  await Promise.all(posts);
  return { turnIds, statuses, withoutRetryAfter };
}

test('at ten times the service rate for two minutes waiting is bounded, refusals are 429, memory is flat, and it drains', async () => {
  onTestFailed(() => {
    for (const { name, logs, running } of cluster.replicas) {
      const alarms = logs.filter(({ level }) => level === 'ERROR' || level === 'CRITICAL');
      console.log(name, running ? 'runs' : 'has ended', JSON.stringify(alarms.slice(-5)));
    }
  });
  cluster.model.setFaults([{ tokensPerSecond: 20 }]);
  const [gateway] = cluster.gateways;
  const [worker] = cluster.workers;
  const [acme] = cluster.tenants;
  if (gateway === undefined || worker === undefined) throw new Error('one of each was started');
  const ledger = createLedger(cluster);
  const flooding = flood(gateway.url, acme.key);
  let over = false;
  void flooding.finally(() => {
    over = true;
  });

  // The neighbour: a turn every few seconds beside the flood.
  const neighbour = ledger.open(1);
  const neighbourTalks = (async () => {
    while (!over) {
      await neighbour.say(makeMessage('plain', { toolLog: cluster.toolLog }));
      await waitFor(
        () => neighbour.open().length,
        (open) => open === 0,
        { timeoutMs: 20_000, label: 'the neighbour' },
      );
      await delay(2_000);
    }
  })();

  const startedAt = performance.now();
  const memory: Record<'gateway' | 'worker', Held[]> = { gateway: [], worker: [] };
  let highest = 0;
  let nextLook = 20_000;
  while (!over) {
    highest = Math.max(highest, (await worker.metric('work_waiting', { queue: 'turns' })) ?? 0);
    if (performance.now() - startedAt >= nextLook) {
      nextLook += 30_000;
      memory.gateway.push(await heldBy(gateway));
      memory.worker.push(await heldBy(worker));
    }
    await delay(500);
  }
  const { turnIds, statuses, withoutRetryAfter } = await flooding;
  await neighbourTalks;
  const served = turnIds.length - bound;
  const offered = [...statuses.values()].reduce((sum, count) => sum + count, 0);

  const drainStartedAt = performance.now();
  await cluster.settle(60_000);
  await waitFor(
    () => worker.metric('work_waiting', { queue: 'turns' }),
    (waiting) => waiting === 0,
    {
      timeoutMs: 10_000,
      label: 'work_waiting to be 0',
    },
  );
  const drainedMs = performance.now() - drainStartedAt;
  const afterwards = { gateway: await heldBy(gateway), worker: await heldBy(worker) };
  const ends = await cluster.database.query<{ turn_id: string; n: string }>(
    `select data::json ->> 'turn_id' as turn_id, count(*) n from gateway.session_events
     where tenant = $1 and event_type in ('assistant.final', 'assistant.error', 'turn.cancelled', 'turn.rejected')
     group by 1`,
    [acme.tenant],
  );
  const figures = await ledger.check();
  ledger.close();
  const mebibytes = (held: Held[]) =>
    held.map(({ heap, external }) => [heap, external].map((n) => +(n / 1_048_576).toFixed(1)));
  console.log(
    JSON.stringify({
      ...{
        offered,
        accepted: turnIds.length,
        statuses: Object.fromEntries(statuses),
        servedPerSecond: served / (floodMs / 1_000),
      },
      ...{
        highest,
        drainedMs: Math.round(drainedMs),
        longestNeighbourTurnMs: Math.round(figures.longestTurnMs),
      },
      memoryMb: {
        gateway: mebibytes([...memory.gateway, afterwards.gateway]),
        worker: mebibytes([...memory.worker, afterwards.worker]),
      },
    }),
  );

  expect(offered).toBeGreaterThan(10 * served);
  expect([...statuses.keys()].toSorted()).toEqual([202, 429]);
  expect(withoutRetryAfter).toBe(0);
  // The door counts a few times a second and adds what it took since; the neighbour's turns wait with them.
  expect(highest).toBeGreaterThan(bound * 0.8);
  expect(highest).toBeLessThanOrEqual(bound + 5);
  for (const held of Object.values(memory)) {
    const [first, last] = [held[0], held.at(-1)];
    if (first === undefined || last === undefined) throw new Error('memory was never read');
    expect(last.heap).toBeLessThan(first.heap * 1.15 + 4_194_304);
    expect(last.external).toBeLessThan(first.external * 1.15 + 4_194_304);
  }
  expect(ends).toHaveLength(turnIds.length);
  expect(ends.filter(({ n }) => Number(n) !== 1)).toEqual([]);
  // A tenant waits for its own flood, not for its neighbour's.
  expect(figures.longestTurnMs).toBeLessThan(5_000);
}, 300_000);
