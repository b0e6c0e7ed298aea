import type { FailPointName } from '@signalbox/lifecycle/fail-point';
import { sleep } from '@signalbox/testkit/wait';
import type { Cluster } from './cluster.ts';
import { createLedger, type Figures, type Traffic } from './ledger.ts';
import type { Replica } from './replica.ts';

/**
 * kill: SIGKILL at the point. stall: stopped there until others have taken over, then continued. The cuts: stopped there,
 * cut off from that part alone, continued, and healed when others have taken over.
 */
export type Breakage =
  | 'kill'
  | 'stall'
  | 'cut off from Kafka'
  | 'cut off from Postgres'
  | 'cut off from Redis';

export interface CrashCase {
  readonly point: FailPointName;
  /** `gateway-1`: who gets to the point. */
  readonly at: string;
  /** The pass at which it breaks. */
  readonly pass?: number;
  readonly breakage: Breakage;
  readonly traffic: Traffic;
}

/** Past a turn's lease (2 s), which somebody else then holds. */
const pastLeaseMs = 3_000;
/** Past the session timeout of the groups (6 s), so that somebody else owns the partitions. */
const pastSessionMs = 7_500;

const parts = {
  'cut off from Kafka': 'kafka',
  'cut off from Postgres': 'postgres',
  'cut off from Redis': 'redis',
} as const;

/**
 * Runs traffic into the point at which one replica breaks, and holds what came of it against the promise. The others
 * have to end every turn while the broken one is gone; it is back for the next case.
 */
export async function runCrashCase(cluster: Cluster, crash: CrashCase): Promise<Figures> {
  const replica = cluster.replica(crash.at);
  const signal = crash.breakage === 'kill' ? 'SIGKILL' : 'SIGSTOP';
  await exchange(replica, {
    FAIL_POINT: `${crash.point}:${crash.pass ?? 2}:${signal}`,
  });
  const ledger = createLedger(cluster);
  const since = new Date();
  try {
    const posted = ledger.traffic(crash.traffic);
    // Told by the await below; a rejection before that is no news to the process.
    posted.catch(() => undefined);
    await replica.atFailPoint();
    await breakIt(replica, crash.breakage, crash.point);
    await posted;
    await ledger.ended(60_000);
    return await ledger.check();
  } catch (error) {
    const what = `${crash.point} of ${crash.at}, ${crash.breakage}`;
    throw new Error(`${what}:\n${await cluster.told(since)}`, { cause: error });
  } finally {
    ledger.close();
  }
}

/** A new process in the place of the old one, which left its groups in order. */
async function exchange(replica: Replica, settings: Record<string, string>): Promise<void> {
  if (replica.running) await replica.stop();
  await replica.start(settings);
  await replica.ready();
}

async function breakIt(replica: Replica, breakage: Breakage, point: FailPointName): Promise<void> {
  if (breakage === 'kill') {
    await replica.gone();
    return;
  }
  const ownsPartitions = point.startsWith('stream.') || point.startsWith('intake.');
  const awayMs = ownsPartitions || breakage === 'cut off from Kafka' ? pastSessionMs : pastLeaseMs;
  if (breakage === 'stall') {
    await sleep(awayMs); // what this is about: others take over meanwhile
    replica.kill('SIGCONT');
    return;
  }
  await replica.cut(parts[breakage]);
  replica.kill('SIGCONT');
  await sleep(awayMs);
  await replica.heal();
}
