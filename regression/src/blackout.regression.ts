import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createLedger, type Ledger } from './ledger.ts';
import { partNames } from './parts.ts';
import type { Replica } from './replica.ts';
import { readyBoundMs, untilWell } from './start-order.ts';

/** One of each service; its broker, database and cache turn into black holes: connections stay, nothing comes back. */
let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({ ...{ gateways: 1, workers: 1, executors: 1, relays: 1 } });
});
afterAll(() => cluster?.close());
beforeEach(() => cluster.mend());

const darkMs = 20_000;
const probes = ['/live', '/ready', '/health', '/healthz', '/version', '/metrics'];

/** Waits until so many sessions have got a part of an answer that goes on. */
async function inMidAnswer(ledger: Ledger, sessions: number): Promise<void> {
  await waitFor(
    () => ledger.talks.filter(({ follower }) => follower?.events.at(-1)?.type === 'assistant.delta').length,
    (count) => count >= sessions,
    { timeoutMs: 60_000, label: 'answers under way' },
  );
}

async function darken(): Promise<void> {
  for (const replica of cluster.replicas) for (const part of partNames) await replica.cut(part);
}

interface Probe {
  readonly path: string;
  readonly status: number;
  readonly ms: number;
}

/** Asks all health routes of a replica, again and again, as several supervisors and scrapers do. */
async function probeFor({ url }: Pick<Replica, 'url'>, forMs: number): Promise<readonly Probe[]> {
  const end = performance.now() + forMs;
  const readings: Probe[] = [];
  while (performance.now() < end) {
    for (const path of probes) {
      const askedAt = performance.now();
      const response = await fetch(`${url}${path}`, { signal: AbortSignal.timeout(5_000) });
      await response.arrayBuffer();
      readings.push({ path, status: response.status, ms: performance.now() - askedAt });
    }
    await delay(50);
  }
  return readings;
}

/** A server that does nothing: what its answers take is the machine's share in what the others take. */
async function startBareServer(): Promise<{ url: string; child: ChildProcess }> {
  const program =
    "const s = require('http').createServer((_, r) => r.end('x')); s.listen(0, '127.0.0.1', () => console.log(s.address().port))";
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [port] = await once(child.stdout, 'data');
  return { url: `http://127.0.0.1:${Number(String(port))}`, child };
}

test('health routes answer within 200 ms while every part is a black hole and work hangs in it', async () => {
  cluster.model.setFaults([{ tokensPerSecond: 20 }]);
  const ledger = createLedger(cluster);
  const traffic = ledger.traffic({ sessions: 12, messages: 2, words: 60 });
  traffic.catch(() => undefined);
  await inMidAnswer(ledger, 6);
  await darken();
  const bare = await startBareServer();
  const asked = [...cluster.replicas, { name: 'a bare server', url: bare.url }];
  const readings = await Promise.all(asked.map((each) => probeFor(each, darkMs)));
  bare.child.kill();
  const rows = readings.map((of, index) => {
    const sorted = of.map(({ ms }) => ms).sort((a, b) => a - b);
    const at = (share: number) =>
      Math.round((sorted[Math.floor((sorted.length - 1) * share)] ?? 0) * 10) / 10;
    const name = asked[index]?.name;
    return { name, asked: of.length, p50Ms: at(0.5), p99Ms: at(0.99), longestMs: at(1) };
  });
  console.table(rows);
  const machine = rows.at(-1);
  for (const { name, p50Ms, p99Ms, longestMs } of rows.slice(0, -1)) {
    expect(p50Ms, name).toBeLessThan(Math.max(100, 2 * (machine?.p50Ms ?? 0)));
    expect(p99Ms, name).toBeLessThan(Math.max(200, 2 * (machine?.p99Ms ?? 0)));
    expect(longestMs, name).toBeLessThan(Math.max(200, 3 * (machine?.longestMs ?? 0)));
  }
  for (const of of readings.slice(0, -1)) {
    for (const { path, status } of of) if (path === '/live') expect(status).toBe(200);
    expect(of.findLast(({ path }) => path === '/ready')?.status).toBe(503);
  }

  for (const replica of cluster.replicas) await replica.heal();
  const took = await untilWell(cluster.replicas);
  console.log(`ready after the blackout: ${JSON.stringify(took)}`);
  for (const ms of Object.values(took)) expect(ms).toBeLessThan(readyBoundMs);
  await traffic;
  console.log(JSON.stringify(await ledger.check()));
  ledger.close();
}, 180_000);

test('a stop in the dark ends within its bound, and the log says what could not be ended', async () => {
  cluster.model.setFaults([{ tokensPerSecond: 20 }]);
  const ledger = createLedger(cluster);
  const traffic = ledger.traffic({ sessions: 8, messages: 1, words: 60 });
  traffic.catch(() => undefined);
  await inMidAnswer(ledger, 6);
  await darken();
  const ends = await Promise.all(
    cluster.replicas.map(async (replica) => ({ replica, ...(await replica.stop(40_000)) })),
  );
  for (const { replica, code, ms } of ends) {
    const bound = replica.service === 'gateway' ? 20_000 : 30_000;
    const stopped = replica.logs.findLast(({ event }) => event === 'service.stopped');
    console.log(
      `${replica.name}: exit ${code} after ${Math.round(ms)} ms, overran ${JSON.stringify(stopped?.overran)}, failed ${JSON.stringify(stopped?.failed)}`,
    );
    expect(ms).toBeLessThan(bound + 1_000);
    expect([0, 75]).toContain(code);
    expect(stopped?.outcome).toBe(code === 0 ? 'drained' : 'forced');
    const left = replica.logs
      .filter(({ event, outcome }) => event === 'shutdown.step' && outcome !== 'done')
      .map(({ step }) => step);
    expect([stopped?.overran, stopped?.failed].flat().sort()).toEqual(left.sort());
  }
  // What was accepted before it is there after it.
  await cluster.mend();
  await traffic;
  console.log(JSON.stringify(await ledger.check()));
  ledger.close();
}, 180_000);
