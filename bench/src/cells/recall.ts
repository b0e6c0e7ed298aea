import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { loadSettings } from '@signalbox/config/settings';
import { givenSources } from '@signalbox/config/sources';
import { newId } from '@signalbox/contracts/ids';
import { idKey } from '@signalbox/contracts/keys';
import { memoryRecallRequestsSchema } from '@signalbox/contracts/memory-recall';
import { openAsker } from '@signalbox/messaging/asker';
import { openMessaging } from '@signalbox/messaging/messaging';
import type { Database } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import type { Cell, Reading } from '../cell.ts';
import { latencyOf } from '../measure.ts';
import { type TextSource, textSource, vocabulary } from '../memory-texts.ts';
import {
  memoryOf,
  openBenchDatabase,
  openWalWriter,
  replicaRows,
  startReplicator,
  untilIndexed,
} from '../replicator.ts';
import { type BenchStack, until } from '../stack.ts';

const tenant = 'acme';
const tenants = [tenant, 'globex'];
const sessions = 500;
const questions = 300;
const warmUp = 60;
const compared = 40;
const atOnce = 2_000;
const limit = 10;

/**
 * A question to the memories of a tenant, from the asker over Kafka and back, beside reading as many rows of the same table by
 * their keys. Another tenant of the same size is in it too.
 */
export async function recallCell(options: {
  stack: BenchStack;
  pairs: number;
  memories: number;
}): Promise<Cell> {
  const { stack, memories } = options;
  const words = vocabulary(30_000);
  const sessionIds = Array.from({ length: sessions }, () => newId());
  const owner = openBenchDatabase(stack.ownerUrl);
  const reader = openBenchDatabase(stack.addresses.DATABASE_URL ?? '');
  const service = await startReplicator(stack);
  await fill();
  const messaging = openMessaging({
    settings: loadSettings('bench', { ...kafkaSettings, ...outboxSettings }, givenSources(stack.addresses)),
    ...{ instanceId: newId(), service: 'gateway', database: reader, log: silentLog, metrics: silentMetrics },
  });
  const asker = openAsker({
    ...{ messaging, service: 'gateway', log: silentLog, metrics: silentMetrics },
    ...{ requests: 'memory.recall.requests', results: 'memory.recall.results' },
  });
  await until('partitions of the answers', 30_000, async () => asker.ready());
  const keys = (
    await owner.query<{ memory_id: string }>(
      'select memory_id from memory_replicator.memories where tenant = $1 order by random() limit $2',
      [tenant, questions * limit],
    )
  ).map(({ memory_id: id }) => id);
  let seed = 100;

  async function fill(): Promise<void> {
    for (const [place, of] of tenants.entries()) {
      const source = textSource(place + 1, words);
      const writer = await openWalWriter(stack, of);
      for (let at = 0; at < memories; at += atOnce) {
        const some = Array.from({ length: Math.min(atOnce, memories - at) }, (_, index) =>
          memoryOf(source.text(), {
            session_id: sessionIds[Math.floor(source.next() * sessions)] ?? newId(),
            occurred_at: new Date(Date.now() - (memories - at - index) * 60_000).toISOString(),
          }),
        );
        await writer.send(some);
      }
      await writer.close();
    }
    const wanted = memories * tenants.length;
    await until('the memories', 600_000, async () => (await replicaRows(owner)) >= wanted);
    await untilIndexed(owner, 1_200_000);
    // What autovacuum does within the minute.
    for (const table of ['memories', 'search', 'words'])
      await owner.query(`vacuum analyze memory_replicator.${table}`);
  }

  async function ask(source: TextSource, place: number) {
    const session = place % 2 === 0 ? {} : { session_id: sessionIds[place % sessions] };
    const startedAt = performance.now();
    const answer = await asker.ask({
      ...{ tenant, key: idKey(tenant, newId()), eventType: 'memory.recall_requested', deadlineMs: 5_000 },
      ...{ schema: memoryRecallRequestsSchema, value: { query: source.query(), limit, ...session } },
    });
    return { ms: performance.now() - startedAt, answer };
  }

  // Connections are opened, functions planned: a service has done that long ago.
  const warming = textSource(99, words);
  for (let place = 0; place < warmUp; place += 1) await ask(warming, place);

  async function product(): Promise<Reading> {
    seed += 1;
    const source = textSource(seed, words);
    const faults: string[] = [];
    const trips: number[] = [];
    const took: number[] = [];
    for (let place = 0; place < questions; place += 1) {
      const { ms, answer } = await ask(source, place);
      if (answer.eventType !== 'memory.recalled') {
        faults.push(JSON.stringify(answer));
        continue;
      }
      trips.push(ms);
      took.push(answer.value.took_ms);
      const scores = answer.value.memories.map(({ score }) => score);
      if (scores.length === 0) faults.push('nothing was recalled');
      if (scores.some((score, at) => score > (scores[at - 1] ?? 1) || score < 0))
        faults.push('not best first');
    }
    const [trip, own] = [latencyOf(trips), latencyOf(took)];
    return {
      figures: {
        p50Ms: trip.p50Ms,
        p99Ms: trip.p99Ms,
        searchP50Ms: own.p50Ms,
        searchP99Ms: own.p99Ms,
        ofBestTen: await ofBestTen(),
      },
      faults,
    };
  }

  /** Of the best ten without a bound on the candidates, the share that is found with it. */
  async function ofBestTen(): Promise<number> {
    const source = textSource(seed + 10_000, words);
    let [found, best] = [0, 0];
    for (let place = 0; place < compared; place += 1) {
      const query = source.query();
      const bounded = await matches(query, 500);
      const all = await matches(query, 1_000_000);
      best += all.length;
      found += all.filter((id) => bounded.includes(id)).length;
    }
    return found / best;
  }

  const matches = (query: string, candidates: number): Promise<string[]> =>
    inTenant(reader, async (tx) => {
      const rows = await tx.query<{ memory_id: string }>(
        'select memory_id from memory_replicator.match($1, null, null, null, $2, $3)',
        [query, limit, candidates],
      );
      return rows.map(({ memory_id: id }) => id);
    });

  async function byKey(): Promise<Reading> {
    const latencies: number[] = [];
    for (let place = 0; place < questions; place += 1) {
      const ids = keys.slice(place * limit, (place + 1) * limit);
      const startedAt = performance.now();
      await inTenant(reader, (tx) =>
        tx.query(
          {
            name: 'bench_by_key',
            text: `select m.* from memory_replicator.memories m where m.tenant = $1
              and m.copy = (select memory_replicator.live_copy()) and m.memory_id = any ($2)`,
          },
          [tenant, ids],
        ),
      );
      latencies.push(performance.now() - startedAt);
    }
    const { p50Ms, p99Ms } = latencyOf(latencies);
    return { figures: { p50Ms, p99Ms }, faults: [] };
  }

  return {
    id: 'recall',
    title: `recall: ${memories} memories of a tenant, beside another of the same size; questions of 3 to 12 words`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      {
        name: 'signalbox',
        run: product,
        async close() {
          await messaging.close();
          await service.stop();
          await Promise.all([owner.close(), reader.close()]);
        },
      },
      { name: 'floor: by key', run: byKey },
    ],
    aims: [
      { figure: 'searchP99Ms', bound: '<=', value: 30 },
      { figure: 'p99Ms', bound: '<=', value: 30 },
    ],
  };
}

function inTenant<T>(database: Database, work: (tx: Pick<Database, 'query'>) => Promise<T>): Promise<T> {
  return database.transaction(work, { tenant });
}
