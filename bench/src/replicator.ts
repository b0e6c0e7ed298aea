import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { environmentWith } from '@signalbox/config/process-environment';
import { newId } from '@signalbox/contracts/ids';
import { type MemoryStored, memoryWalSchema } from '@signalbox/contracts/memory-wal';
import { type Database, openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { Kafka, logLevel, type Producer } from 'kafkajs';
import { bounded } from './conversation.ts';
import { type BenchStack, until } from './stack.ts';

const entry = new URL('../../apps/memory-replicator/src/main.ts', import.meta.url);

export interface Replicator {
  readonly pid: number;
  /** Monotonic milliseconds of its first partitions of memory.wal. */
  readonly assignedAt: number;
  stop(): Promise<void>;
  kill(): Promise<void>;
}

/** memory-replicator as a process of its own beside the stack, which a cell starts and stops. */
export async function startReplicator(
  stack: BenchStack,
  more: Record<string, string> = {},
): Promise<Replicator> {
  const child = spawn(process.execPath, [entry.pathname], {
    env: environmentWith({ ...stack.addresses, PORT: '0', ...more }),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const assigned = Promise.withResolvers<number>();
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  child.once('exit', (code) => assigned.reject(new Error(`memory-replicator ended with code ${code}`)));
  createInterface({ input: child.stdout }).on('line', (text) => {
    if (text.includes('"consumer.assigned"') && text.includes('"memory.wal"'))
      assigned.resolve(performance.now());
  });
  const end = async (signal: 'SIGTERM' | 'SIGKILL') => {
    child.kill(signal);
    await ended;
  };
  return {
    pid: child.pid ?? -1,
    assignedAt: await bounded(assigned.promise, 60_000, 'partitions of memory.wal'),
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
  };
}

export function openBenchDatabase(url: string): Database {
  return openDatabase({
    url,
    ...{ poolSize: 4, maxOverflow: 0, poolTimeoutMs: 60_000, poolRecycleMs: 3_600_000 },
    ...{ statementTimeoutMs: 300_000, applicationName: 'bench', log: silentLog, metrics: silentMetrics },
  });
}

/** Rows of the live copy, over all tenants. */
export async function replicaRows(owner: Database): Promise<number> {
  const [row] = await owner.query<{ n: number }>('select count(*)::int as n from memory_replicator.memories');
  return row?.n ?? Number.NaN;
}

/** Waits until every replicated memory has its search row; answers the seconds that it took. */
export async function untilIndexed(owner: Database, limitMs: number): Promise<number> {
  const startedAt = performance.now();
  await until('the search rows', limitMs, async () => {
    const [row] = await owner.query<{ n: number }>(
      'select count(*)::int as n from memory_replicator.to_index',
    );
    return row?.n === 0;
  });
  return (performance.now() - startedAt) / 1_000;
}

export interface WalWriter {
  send(memories: readonly MemoryStored[]): Promise<void>;
  close(): Promise<void>;
}

/** Writes memories as memory-sync does: its headers, one record each. */
export async function openWalWriter(stack: BenchStack, tenant: string): Promise<WalWriter> {
  const kafka = new Kafka({ brokers: [stack.kafka], logLevel: logLevel.NOTHING });
  const producer: Producer = kafka.producer({ allowAutoTopicCreation: false });
  await producer.connect();
  return {
    async send(memories) {
      const messages = memories.map((memory) => ({
        key: `${tenant}:${memory.memory_id}`,
        value: JSON.stringify(memory),
        headers: {
          tenant_id: tenant,
          event_id: newId(),
          event_type: 'memory.stored',
          schema: memoryWalSchema,
          ce_id: memory.memory_id,
          ce_source: 'memory-sync',
          ce_type: 'memory.stored',
          ce_specversion: '1.0',
        },
      }));
      await producer.send({ topic: 'memory.wal', acks: -1, messages });
    },
    close: () => producer.disconnect(),
  };
}

/** A memory whose record has about 300 bytes with a text of 60 characters, or as much more as the text is longer. */
export function memoryOf(text: string, more: Partial<MemoryStored> = {}): MemoryStored {
  const now = new Date().toISOString();
  return {
    ...{ memory_id: newId(), version: 1, namespace: 'default', role: 'user', text },
    ...{ occurred_at: now, stored_at: now },
    ...more,
  };
}
