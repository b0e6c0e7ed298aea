import { startTemporaryParts } from '@signalbox/dev/temporary-parts';
import { type TestInfra, testInfra } from '@signalbox/testkit/infra';

export type PartName = 'kafka' | 'postgres' | 'redis';
export const partNames: readonly PartName[] = ['kafka', 'postgres', 'redis'];

/** Broker, database and cache under a cluster. */
export interface ClusterParts {
  readonly infra: TestInfra;
  /** Kills an own part with SIGKILL; resolves when it is gone. Its data stays. Throws on shared parts. */
  kill(part: PartName): Promise<void>;
  /** Starts a killed part again on its port and data; resolves when it answers. */
  startAgain(part: PartName): Promise<void>;
  close(): Promise<void>;
}

/**
 * The run's parts, which nobody may kill, or own ones, which keep their data over a kill. Redis keeps its data too: a test
 * of an emptied one says FLUSHALL.
 */
export async function openParts(kind: 'shared' | 'own'): Promise<ClusterParts> {
  if (kind === 'shared') {
    const refuse = async (part: PartName) => {
      throw new Error(`${part} is shared by the run: startCluster({ parts: 'own' }) to kill it`);
    };
    return { infra: testInfra(), kill: refuse, startAgain: refuse, close: async () => undefined };
  }
  const own = await startTemporaryParts({ only: partNames, durable: true });
  const { kafka, postgres, redis } = own.addresses;
  if (kafka === undefined || postgres === undefined || redis === undefined)
    throw new Error('a part has no address');
  return {
    infra: { kafka: kafka.bootstrap, ownerUrl: postgres.adminUrl, redisUrl: redis.url },
    kill: (part) => own.kill(part),
    startAgain: (part) => own.startAgain(part),
    close: () => own.close(),
  };
}
