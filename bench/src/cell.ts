import { median, round, spread } from './measure.ts';

/** One run of one variant: its figures by name, and what its own check of the results found wrong. */
export interface Reading {
  figures: Record<string, number>;
  faults: string[];
}

export interface Variant {
  name: string;
  run(): Promise<Reading>;
  close?(): Promise<void>;
}

/** What a cell promises of its figures: `aim` is the bound it was built for, checked and printed, never an assertion. */
export interface Aim {
  figure: string;
  of?: string;
  bound: '<=' | '>=';
  value: number;
}

export interface Cell {
  id: string;
  title: string;
  /** The product first, then floors; they are run interleaved: A B A B. */
  variants: Variant[];
  aims: Aim[];
  pairs: number;
  /** Asserted before each variant's run: a flood that drains into the next run makes it look worse than it is. */
  settle(): Promise<void>;
}

export interface CellResult {
  id: string;
  title: string;
  readings: Record<string, Reading[]>;
  summary: Record<string, Record<string, { median: number; low: number; high: number }>>;
  aims: { text: string; measured: number; met: boolean }[];
  faults: string[];
}

/** Runs a cell's variants interleaved `pairs` times and sums them up; a reading with faults stays in the result. */
export async function runCell(cell: Cell, say: (line: string) => void): Promise<CellResult> {
  const readings: Record<string, Reading[]> = {};
  for (let pair = 0; pair < cell.pairs; pair += 1) {
    for (const variant of cell.variants) {
      await cell.settle();
      const reading = await variant.run();
      const list = readings[variant.name] ?? [];
      readings[variant.name] = list;
      list.push(reading);
      const shown = Object.entries(reading.figures).map(([name, value]) => `${name} ${round(value, 2)}`);
      say(`  ${cell.id} ${pair + 1}/${cell.pairs} ${variant.name}: ${shown.join(', ')}`);
    }
  }
  for (const variant of cell.variants) await variant.close?.();
  return summarize(cell, readings);
}

function summarize(cell: Cell, readings: Record<string, Reading[]>): CellResult {
  const summary: CellResult['summary'] = {};
  for (const [name, list] of Object.entries(readings)) {
    const figures: Record<string, { median: number; low: number; high: number }> = {};
    for (const figure of Object.keys(list[0]?.figures ?? {})) {
      const values = list.map((reading) => reading.figures[figure] ?? Number.NaN);
      figures[figure] = { median: median(values), ...spread(values) };
    }
    summary[name] = figures;
  }
  const product = cell.variants[0]?.name ?? '';
  const aims = cell.aims.map((aim) => judge(aim, product, summary));
  const faults = Object.entries(readings).flatMap(([name, list]) =>
    list.flatMap((reading, index) => reading.faults.map((fault) => `${name} run ${index + 1}: ${fault}`)),
  );
  return { id: cell.id, title: cell.title, readings, summary, aims, faults };
}

/** A ratio is taken between the medians of one interleaved run: single figures swing too far to be compared. */
function judge(aim: Aim, product: string, summary: CellResult['summary']): CellResult['aims'][number] {
  const own = summary[product]?.[aim.figure]?.median ?? Number.NaN;
  const measured = aim.of === undefined ? own : own / (summary[aim.of]?.[aim.figure]?.median ?? Number.NaN);
  const met = aim.bound === '<=' ? measured <= aim.value : measured >= aim.value;
  const subject = aim.of === undefined ? aim.figure : `${aim.figure} / ${aim.of}`;
  return { text: `${subject} ${aim.bound} ${aim.value}`, measured, met };
}

/** The cell as a table: a row a variant, a column a figure, each median with its lowest and highest value. */
export function renderCell(result: CellResult): string {
  const lines = [`${result.id}  ${result.title}`];
  for (const [name, figures] of Object.entries(result.summary)) {
    const cells = Object.entries(figures).map(
      ([figure, { median: middle, low, high }]) =>
        `${figure} ${round(middle, 2)} (${round(low, 2)}–${round(high, 2)})`,
    );
    lines.push(`  ${name.padEnd(28)} ${cells.join('  ')}`);
  }
  for (const aim of result.aims) {
    lines.push(`  aim ${aim.text}: ${round(aim.measured, 2)} ${aim.met ? 'met' : 'MISSED'}`);
  }
  for (const fault of result.faults) lines.push(`  INCORRECT ${fault}`);
  return lines.join('\n');
}
