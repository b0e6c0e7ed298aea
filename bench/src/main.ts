/**
 * `npm run bench [-- cell …] [--pairs n] [--seconds n]`: runs the named cells (all when none is named) on parts of its own,
 * product and floor interleaved, prints the tables and keeps the raw readings as JSON in bench/results/local.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Lifecycle, runMain } from '@signalbox/lifecycle/lifecycle';
import { Kafka, logLevel } from 'kafkajs';
import { type Cell, type CellResult, renderCell, runCell } from './cell.ts';
import { acceptCell } from './cells/accept.ts';
import { delegationCell } from './cells/delegation.ts';
import { firstDeltaCell, toolTurnCell } from './cells/first-delta.ts';
import { headOfLineCell } from './cells/head-of-line.ts';
import { walFloodCell, walSteadyCell } from './cells/memory-wal.ts';
import { recallCell } from './cells/recall.ts';
import { startCell } from './cells/start.ts';
import { closedLoopCell, openLoopCell } from './cells/under-load.ts';
import { type BenchStack, type Floor, startFloor, startStack, until } from './stack.ts';

const allServices = [
  ...['gateway', 'conversation-worker', 'tool-executor', 'outbox-sync'],
  ...['memory-sync', 'memory-replicator'],
];
/** In the order in which they run: those that leave Zipkin and the database busy come last. */
const cellIds = ['B1', 'delegation', 'B6', 'B6s', 'recall', 'B8', 'B2', 'B2t', 'B13', 'B3', 'B3o'] as const;
type CellId = (typeof cellIds)[number];
/** Cells with a stack of their own; the others share one. */
const ownStack = ['B1', 'delegation', 'B6', 'B6s', 'recall'] as const;
type OtherCellId = Exclude<CellId, (typeof ownStack)[number]>;

/** Progress is on stdout already; what is left to say is why it ended. */
const quietLog = {
  info: () => {},
  error: (event: string, fields?: object) => say(`${event} ${JSON.stringify(fields)}`),
  critical: (event: string, { error }: { error?: unknown } = {}) =>
    say(`${event}: ${error instanceof Error ? error.stack : error}`),
};

const say = (line: string) => process.stdout.write(`${line}\n`);

await runMain(async (lifecycle) => {
  lifecycle.configure({ drainDelayMs: 0, stopTimeoutMs: 120_000, log: quietLog });
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      pairs: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '5' },
      // What B6 writes and what a tenant of `recall` has: fewer for a first look.
      records: { type: 'string', default: '200000' },
      memories: { type: 'string', default: '100000' },
    },
  });
  const unknown = positionals.find((name) => !cellIds.some((id) => id === name));
  if (unknown !== undefined) throw new Error(`no cell ${unknown}; there are ${cellIds.join(', ')}`);
  const wanted = positionals.length === 0 ? [...cellIds] : cellIds.filter((id) => positionals.includes(id));
  const pairs = Number(values.pairs);
  const seconds = Number(values.seconds);

  const results: CellResult[] = [];
  const run = async (cell: Cell) => {
    say(`${cell.id}  ${cell.title}`);
    const result = await runCell(cell, say);
    results.push(result);
    say(renderCell(result));
  };
  // The accept alone: a worker beside it would be measured too, and its turns would still run in the next pair.
  if (wanted.includes('B1'))
    await withStack(lifecycle, ['gateway', 'outbox-sync'], (stack) => runAccept(stack, run, pairs, seconds));
  if (wanted.includes('delegation'))
    await withStack(lifecycle, ['delegation-worker', 'outbox-sync'], (stack) =>
      run(delegationCell({ stack, pairs })),
    );
  const [records, memories] = [Number(values.records), Number(values.memories)];
  // Each on parts of its own: what one has left would be vacuumed, or cached, in the next.
  if (wanted.includes('B6'))
    await withStack(lifecycle, [], (stack) => run(walFloodCell({ stack, pairs, records })));
  if (wanted.includes('B6s'))
    await withStack(lifecycle, [], (stack) => run(walSteadyCell({ stack, pairs, seconds })));
  if (wanted.includes('recall'))
    await withStack(lifecycle, [], async (stack) => run(await recallCell({ stack, pairs, memories })));
  const others = wanted.filter((id): id is OtherCellId => !ownStack.some((own) => own === id));
  if (others.length > 0) {
    await withStack(lifecycle, allServices, (stack) => runOthers(stack, others, run, pairs, seconds));
  }
  keep(results);
  if (results.some((result) => result.faults.length > 0))
    throw new Error('a run was incorrect, see INCORRECT above');
  void lifecycle.stop('the cells are done');
});

async function withStack(
  lifecycle: Lifecycle,
  services: readonly string[],
  use: (stack: BenchStack) => Promise<void>,
): Promise<void> {
  say(`parts and ${services.join(', ')} are starting`);
  const stack = await startStack({ services });
  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= stack.close();
    return closing;
  };
  // Ctrl-C, or a rejection outside of our promises: nothing of it stays behind.
  lifecycle.onStop({ name: 'stack', phase: 'pools', timeoutMs: 100_000, run: close });
  try {
    await use(stack);
  } finally {
    await close();
  }
}

async function runAccept(
  stack: BenchStack,
  run: (cell: Cell) => Promise<void>,
  pairs: number,
  seconds: number,
): Promise<void> {
  await createFloorTopics(stack.kafka, ['floor.inbound']);
  const instant = () => startFloor('instant-server', {});
  const sendPerRequest = () =>
    startFloor('instant-server', { KAFKA_BOOTSTRAP_SERVERS: stack.kafka, FLOOR_TOPIC: 'floor.inbound' });
  await run(acceptCell({ stack, instant, sendPerRequest, pairs, seconds }));
}

async function runOthers(
  stack: BenchStack,
  wanted: readonly OtherCellId[],
  run: (cell: Cell) => Promise<void>,
  pairs: number,
  seconds: number,
): Promise<void> {
  const hops = (count: number) => () => startHops(stack, count);
  const make: Record<OtherCellId, () => Cell> = {
    B2: () => firstDeltaCell({ stack, direct: hops(0), hops: hops(2), pairs }),
    B2t: () => toolTurnCell({ stack, hops: hops(4), pairs }),
    B3: () => closedLoopCell({ stack, hops: hops(2), pairs, seconds }),
    B3o: () => openLoopCell({ stack, pairs: Math.min(pairs, 3), seconds: 3 * seconds, sessions: 1000 }),
    B8: () => startCell({ stack, pairs }),
    B13: () => headOfLineCell({ stack, pairs }),
  };
  for (const id of wanted) await run(make[id]());
}

/** A front, and behind it a worker unless it asks the model itself. Topics of their own each time: no old records. */
async function startHops(stack: BenchStack, count: number): Promise<Floor> {
  const run = crypto.randomUUID().slice(0, 8);
  const environment = {
    KAFKA_BOOTSTRAP_SERVERS: stack.kafka,
    HOPS: String(count),
    FLOOR_OUT: `floor.out.${run}`,
    FLOOR_BACK: `floor.back.${run}`,
    MODEL_BASE_URL: stack.modelUrl,
  };
  if (count === 0) return startFloor('bare-hops', { ...environment, ROLE: 'front' });
  await createFloorTopics(stack.kafka, [environment.FLOOR_OUT, environment.FLOOR_BACK]);
  const worker = await startFloor('bare-hops', { ...environment, ROLE: 'worker' });
  const front = await startFloor('bare-hops', { ...environment, ROLE: 'front' });
  return {
    ...front,
    async close() {
      await front.close();
      await worker.close();
    },
  };
}

/** A broker names a leader some moments after it has made a topic, and kafkajs gives up waiting too early. */
async function createFloorTopics(bootstrap: string, topics: readonly string[]): Promise<void> {
  const admin = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING }).admin();
  await admin.connect();
  await admin.createTopics({
    topics: topics.map((topic) => ({ topic, numPartitions: 6 })),
    waitForLeaders: false,
  });
  await until(`leaders of ${topics.join(', ')}`, 10_000, async () => {
    const found = await admin.fetchTopicMetadata({ topics: [...topics] }).catch(() => undefined);
    return found?.topics.every(({ partitions }) => partitions.every(({ leader }) => leader >= 0)) ?? false;
  });
  await admin.disconnect();
}

/** Raw readings beside the summary, so that a table can be checked and another figure taken from the same run. */
function keep(results: readonly CellResult[]): void {
  const folder = join(import.meta.dirname, '..', 'results', 'local');
  mkdirSync(folder, { recursive: true });
  const at = new Date().toISOString();
  const machine = {
    cpus: cpus().length,
    cpu: cpus()[0]?.model,
    memoryBytes: totalmem(),
    node: process.version,
  };
  const file = join(folder, `${at.replaceAll(':', '-')}.json`);
  writeFileSync(file, `${JSON.stringify({ at, machine, results }, null, 2)}\n`);
  say(`raw readings: ${file}`);
}
