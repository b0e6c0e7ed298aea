import { rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MemoryStored } from '@signalbox/contracts/memory-wal';
import type { Cell, Reading } from '../cell.ts';
import { cpuMsOf, latencyOf } from '../measure.ts';
import { textSource, vocabulary } from '../memory-texts.ts';
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
const atOnce = 2_000;
const insertedEach = 3_000;
const steadyRate = 5_000;
const tickMs = 10;
/** Of a process that has just started; not measured. */
const warmSeconds = 2;
/** Its spans would be measured, and their collector: B10 says what tracing costs. */
const untraced = { TRACING_ENABLED: 'false' };
const floorColumns = 'tenant, memory_id, version, namespace, role, body, occurred_at, stored_at';

let seed = 0;
function nextSeed(): number {
  seed += 1;
  return seed;
}

/** Records of 300 bytes: the text is what is left beside the fields. */
function memories(count: number, seed: number): MemoryStored[] {
  const source = textSource(seed, vocabulary(20_000));
  return Array.from({ length: count }, () => {
    const { text, ...rest } = memoryOf(source.text());
    return { ...rest, text: text.slice(0, Math.max(300 - JSON.stringify(rest).length - 10, 20)) };
  });
}

/** B6: what stands in memory.wal, from the broker through the service into the table; beside COPY and an INSERT each. */
export function walFloodCell(options: { stack: BenchStack; pairs: number; records: number }): Cell {
  const { stack, records } = options;
  const owner = openBenchDatabase(stack.ownerUrl);
  const floor = async () => {
    await owner.query('drop table if exists public.floor_memories');
    await owner.query(`create table public.floor_memories (tenant text, memory_id uuid, version int, namespace text, role text,
      body text, occurred_at timestamptz, stored_at timestamptz, primary key (tenant, memory_id))`);
  };

  async function product(killed: boolean): Promise<Reading> {
    const before = await replicaRows(owner);
    const writer = await openWalWriter(stack, tenant);
    const all = memories(records, nextSeed());
    for (let at = 0; at < all.length; at += atOnce) await writer.send(all.slice(at, at + atOnce));
    await writer.close();
    const changed = await rowsChanged();
    let service = await startReplicator(stack, untraced);
    let from = service.assignedAt;
    let rows = 0;
    const reached = (count: number) =>
      until('the records in the table', 300_000, async () => {
        rows = (await replicaRows(owner)) - before;
        return rows >= count;
      });
    if (killed) {
      await reached(records / 4);
      await service.kill();
      service = await startReplicator(stack, untraced);
      from = service.assignedAt;
    }
    const startRows = killed ? rows : 0;
    const cpuBefore = cpuMsOf([service.pid]);
    await reached(records);
    const seconds = (performance.now() - from) / 1_000;
    const cpuMs = cpuMsOf([service.pid]) - cpuBefore;
    const behindSeconds = await untilIndexed(owner, 600_000);
    await service.stop();
    const faults = rows === records ? [] : [`${rows} rows of ${records} records`];
    let written = 0;
    // Backends tell their counts late; what was written twice would go past it and fail too.
    await until('the counts of the table', 20_000, async () => {
      written = (await rowsChanged()) - changed;
      return written >= records;
    }).catch(() => undefined);
    if (written !== records) faults.push(`${written} changes of rows for ${records} records`);
    const done = records - startRows;
    return {
      figures: {
        rate: done / seconds,
        cpuUsPerOp: (cpuMs * 1_000) / done,
        ...(killed ? {} : { searchableRate: records / (seconds + behindSeconds) }),
      },
      faults,
    };
  }

  /** Inserts and updates of the replica's rows. */
  async function rowsChanged(): Promise<number> {
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    const [row] = await owner.query<{ n: string }>(
      `select sum(n_tup_ins + n_tup_upd) as n from pg_stat_user_tables
       where schemaname = 'memory_replicator' and relname like 'memories%'`,
    );
    return Number(row?.n ?? Number.NaN);
  }

  return {
    id: 'B6',
    title: `memory.wal: ${records} records of 300 B into the replica`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [
      { name: 'signalbox', run: () => product(false), close: () => owner.close() },
      {
        name: 'floor: COPY',
        async run() {
          await floor();
          const file = join(tmpdir(), `signalbox-bench-${process.pid}.copy`);
          const lines = memories(records, nextSeed()).map((memory) => columnsOf(memory).join('\t'));
          writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o644 });
          const startedAt = performance.now();
          await owner.query(`copy public.floor_memories (${floorColumns}) from '${file}'`);
          const reading = rateOf(records, startedAt);
          rmSync(file);
          return reading;
        },
      },
      {
        name: 'floor: INSERT each',
        async run() {
          await floor();
          const all = memories(insertedEach, nextSeed());
          const startedAt = performance.now();
          for (const memory of all) {
            await owner.query(
              {
                name: 'bench_insert',
                text: `insert into public.floor_memories (${floorColumns}) values ($1, $2, $3, $4, $5, $6, $7, $8)`,
              },
              columnsOf(memory),
            );
          }
          return rateOf(insertedEach, startedAt);
        },
      },
      { name: 'signalbox, killed half-way', run: () => product(true) },
    ],
    aims: [
      { figure: 'rate', bound: '>=', value: 60_000 },
      { figure: 'rate', of: 'floor: COPY', bound: '>=', value: 0.33 },
      { figure: 'rate', of: 'floor: INSERT each', bound: '>=', value: 20 },
    ],
  };
}

function rateOf(count: number, startedAt: number): Reading {
  return { figures: { rate: (count * 1_000) / (performance.now() - startedAt) }, faults: [] };
}

function columnsOf(memory: MemoryStored): (string | number)[] {
  const { memory_id: id, version, namespace, role, text, occurred_at: occurred, stored_at: stored } = memory;
  return [tenant, id, version, namespace, role, text, occurred, stored];
}

/** B6s: 5 000 records a second, from the send to the row that anybody can read. */
export function walSteadyCell(options: { stack: BenchStack; pairs: number; seconds: number }): Cell {
  const { stack, seconds } = options;
  const owner = openBenchDatabase(stack.ownerUrl);

  async function run(): Promise<Reading> {
    const count = steadyRate * (warmSeconds + seconds);
    const all = memories(count, nextSeed());
    const before = await replicaRows(owner);
    const writer = await openWalWriter(stack, tenant);
    const service = await startReplicator(stack, untraced);
    const waiting = new Map<string, number>();
    const lags: number[] = [];
    let sending = true;
    const watching = (async () => {
      while (sending || waiting.size > 0) {
        const ids = [...waiting.keys()].slice(0, 50);
        const seen = await owner.query<{ memory_id: string }>(
          {
            name: 'bench_seen',
            // One by one: planned on an empty table it would read all rows each time.
            text: `select m.memory_id from unnest($2::uuid[]) u(id) cross join lateral (
              select r.memory_id from memory_replicator.memories r
              where r.tenant = $1 and r.memory_id = u.id and r.copy = 0 offset 0) m`,
          },
          [tenant, ids],
        );
        const now = performance.now();
        for (const { memory_id: id } of seen) {
          lags.push(now - (waiting.get(id) ?? now));
          waiting.delete(id);
        }
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    })();
    const cpuBefore = cpuMsOf([service.pid]);
    const startedAt = performance.now();
    const perMs = steadyRate / 1_000;
    for (let at = 0; at < count; ) {
      await new Promise((resolve) => setTimeout(resolve, tickMs));
      // All that is due by now: a send that takes longer than a tick makes the next one larger, not later.
      const due = Math.min(Math.floor((performance.now() - startedAt) * perMs), count);
      const some = all.slice(at, due);
      for (const place of [0, some.length >> 1]) {
        const marked = some[place]?.memory_id;
        if (marked !== undefined && at >= steadyRate * warmSeconds)
          waiting.set(marked, startedAt + (at + place) / perMs);
      }
      at = due;
      if (some.length > 0) await writer.send(some);
    }
    const cpuMs = cpuMsOf([service.pid]) - cpuBefore;
    const elapsed = (performance.now() - startedAt) / 1_000;
    sending = false;
    await watching;
    await until('the records in the table', 60_000, async () => (await replicaRows(owner)) - before >= count);
    const behindSeconds = await untilIndexed(owner, 600_000);
    await writer.close();
    await service.stop();
    const rows = (await replicaRows(owner)) - before;
    const { p50Ms, p99Ms } = latencyOf(lags);
    return {
      figures: {
        rate: count / elapsed,
        lagP50Ms: p50Ms,
        lagP99Ms: p99Ms,
        indexBehindS: behindSeconds,
        cpuUsPerOp: (cpuMs * 1_000) / count,
      },
      faults: rows === count ? [] : [`${rows} rows of ${count} records`],
    };
  }

  return {
    id: 'B6s',
    title: `memory.wal: ${steadyRate} records of 300 B a second, ${seconds} s`,
    pairs: options.pairs,
    settle: () => stack.settle(),
    variants: [{ name: 'signalbox', run, close: () => owner.close() }],
    aims: [{ figure: 'lagP99Ms', bound: '<=', value: 50 }],
  };
}
