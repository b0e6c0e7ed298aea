import { sleep } from '@signalbox/testkit/wait';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Cluster, startCluster } from './cluster.ts';
import { createErrands } from './errands.ts';
import { createLedger } from './ledger.ts';

/** Past the session timeout of the groups (6 s) and every lease: others own and hold by then. */
const awayMs = 8_000;

type Breakage = 'killed' | 'stalled' | 'cut off from Kafka' | 'cut off from Postgres';
const breakages: readonly Breakage[] = ['killed', 'stalled', 'cut off from Kafka', 'cut off from Postgres'];
const names = ['sync-1', 'replicator-1', 'tasks-1', 'tasker-1', 'jobs-1'] as const;

let cluster: Cluster;
beforeAll(async () => {
  cluster = await startCluster({
    side: 2,
    relays: 1,
    settingsOf: { 'delegation-gateway': { READY_GRACE_MS: '3000' } },
  });
});
afterAll(() => cluster?.close());

async function breakIt(name: string, how: Breakage): Promise<void> {
  const replica = cluster.replica(name);
  if (how === 'killed') return replica.kill('SIGKILL');
  if (how === 'stalled') replica.kill('SIGSTOP');
  else await replica.cut(how === 'cut off from Kafka' ? 'kafka' : 'postgres');
  await sleep(awayMs); // what this is about: others take over meanwhile
  if (how === 'stalled') replica.kill('SIGCONT');
  else await replica.heal();
}

test.each(names.flatMap((name) => breakages.map((how) => [name, how] as const)))(
  '%s is %s: every memory, task, export and delegating turn is kept, once',
  async (name, how) => {
    const [ledger, errands, since] = [createLedger(cluster), createErrands(cluster), new Date()];
    try {
      const posted = Promise.all([
        errands.run({ memories: 60, tasks: 30, exports: 2, pauseMs: 60 }),
        ledger.traffic({ sessions: 6, messages: 3, kinds: ['plain', 'delegated'], pauseMs: 500 }),
      ]);
      // Told by the await below; a rejection before that is no news to the process.
      posted.catch(() => undefined);
      await sleep(1_000); // into the middle of it
      await breakIt(name, how);
      await posted;
      await ledger.ended(90_000);
      await cluster.mend();
      const figures = { ...(await ledger.check()), errands: await errands.check() };
      console.log(JSON.stringify({ case: `${name} ${how}`, ...figures }));
      expect(figures.finals).toBe(figures.accepted);
    } catch (error) {
      throw new Error(`${name} ${how}:\n${await cluster.told(since)}`, { cause: error });
    } finally {
      ledger.close();
      await cluster.mend();
    }
  },
  240_000,
);
