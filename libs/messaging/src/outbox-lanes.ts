import type { TopicName } from '@signalbox/contracts/topics';

/** What a lane orders: the row ids of one key as this process may queue them. */
export interface LaneRow {
  readonly id: bigint;
  readonly prevId: bigint | undefined;
}

/**
 * One key of one topic in this process.
 * - `open`: records are queued as they come.
 * - `held`: a row came back from its commit before the one that precedes it; it and everything after it wait.
 * - `giving-up`: the statement that leaves the key's rows to the relay is on its way; rows that commit meanwhile wait
 *   for its answer, for it may have taken them along.
 * - `adopting`: rows of others are sent first (delivery rule 19); direct records wait.
 */
export interface Lane<Row extends LaneRow> {
  readonly topic: TopicName;
  readonly key: string;
  state: 'open' | 'giving-up' | 'adopting';
  /** The highest row that was queued. */
  lastQueued: bigint;
  /** Rows whose predecessor has not come back yet, lowest first. */
  held: Row[];
  /** Rows that committed while the key was being given up. */
  late: Row[];
  /** Direct records that must not overtake what is held or adopted. */
  behind: (() => void)[];
  /** Rows queued and not acknowledged. */
  readonly outstanding: Map<bigint, Row>;
  /** Direct records queued and not acknowledged. */
  directQueued: number;
  /** Whether direct records go to this key: then rows that the relay sends must be waited for. */
  direct: boolean;
  /** Rows of this key went to the relay: adopt before the next direct record. */
  mustAdopt: boolean;
  /** Puts of this key whose commit was not answered: rows may stand there that are queued nowhere here. */
  unanswered: number;
}

const maxLanes = 20_000;

/**
 * The lanes of a process, least recently used first. An idle lane may be dropped: all that is lost is which row was
 * queued last, and a row that then waits for its predecessor in vain is left to the relay.
 */
export class Lanes<Row extends LaneRow> {
  readonly #lanes = new Map<string, Lane<Row>>();

  get(topic: TopicName, key: string): Lane<Row> {
    const name = `${topic} ${key}`;
    let lane = this.#lanes.get(name);
    if (lane === undefined) {
      lane = {
        topic,
        key,
        state: 'open',
        lastQueued: 0n,
        held: [],
        late: [],
        behind: [],
        outstanding: new Map(),
        directQueued: 0,
        direct: false,
        mustAdopt: false,
        unanswered: 0,
      };
      if (this.#lanes.size >= maxLanes) this.#dropIdle();
    } else {
      this.#lanes.delete(name);
    }
    this.#lanes.set(name, lane);
    return lane;
  }

  get size(): number {
    return this.#lanes.size;
  }

  all(): IterableIterator<Lane<Row>> {
    return this.#lanes.values();
  }

  #dropIdle(): void {
    let looked = 0;
    for (const [name, lane] of this.#lanes) {
      if (isIdle(lane)) {
        this.#lanes.delete(name);
        return;
      }
      looked += 1;
      if (looked === 64) return; // all busy: the bounds on rows and records hold the rest
    }
  }
}

function isIdle<Row extends LaneRow>(lane: Lane<Row>): boolean {
  return (
    lane.state === 'open' &&
    !lane.mustAdopt &&
    lane.unanswered === 0 &&
    lane.directQueued === 0 &&
    lane.outstanding.size === 0 &&
    lane.held.length + lane.late.length + lane.behind.length === 0
  );
}

/**
 * Takes in a committed row of the fast path and returns the rows to queue now, in order.
 *
 * Two commits of one process on two connections: put 1 commits, put 2 sees row 1 (its own, so fast) and commits; the
 * answer to commit 2 is read first. Row 2 carries prev_id 1, which was never queued here, so it is held until row 1 comes.
 */
export function admit<Row extends LaneRow>(lane: Lane<Row>, row: Row): Row[] {
  if (!follows(lane, row)) {
    lane.held.push(row);
    lane.held.sort((a, b) => (a.id < b.id ? -1 : 1));
    return [];
  }
  const ready = [row];
  lane.lastQueued = max(lane.lastQueued, row.id);
  for (let next = lane.held[0]; next !== undefined && follows(lane, next); next = lane.held[0]) {
    lane.held.shift();
    lane.lastQueued = max(lane.lastQueued, next.id);
    ready.push(next);
  }
  return ready;
}

function follows<Row extends LaneRow>(lane: Lane<Row>, row: Row): boolean {
  return row.prevId === undefined || row.prevId <= lane.lastQueued;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
