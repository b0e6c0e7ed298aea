import type { TopicName } from '@signalbox/contracts/topics';
import { asFault, fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { adoptRows } from './adopt-rows.ts';
import type { MessagingMetrics } from './messaging-metrics.ts';
import { admit, type Lane, Lanes } from './outbox-lanes.ts';
import { giveUpRows, notifyGivenUp, type OutboxRecord } from './outbox-sql.ts';
import type { PlainRecord, Receipt } from './outgoing.ts';
import type { Producer, Sending } from './producer.ts';
import type { RefusedRows } from './refused-rows.ts';
import { sendRow, wireBytes } from './row-sending.ts';
import type { SentRows } from './sent-rows.ts';

/** A row as its commit brought it back. */
export interface CommittedRow extends OutboxRecord {
  readonly id: bigint;
  readonly fast: boolean;
  readonly prevId: bigint | undefined;
}

interface FastRow extends CommittedRow {
  /** Monotonic milliseconds of its commit; what the age bound counts from. */
  readonly since: number;
  sending: Sending | undefined;
  /** The relay has it too; it stays queued here only because direct records are queued behind it. */
  givenUp: boolean;
}

/** A direct record without an answer yet. */
interface Direct {
  readonly since: number;
  end(reason: Error): void;
}

export interface FastPathOptions {
  readonly database: Database;
  readonly producer: Producer;
  readonly sentRows: SentRows;
  readonly refusedRows: RefusedRows;
  readonly writer: string;
  readonly log: Logger;
  readonly metrics: MessagingMetrics;
  /** Rows that this process holds at most (delivery rule 8). */
  readonly maxRows: number;
  readonly maxAgeMs: number;
}

const tickMs = 100;
const notifyEveryMs = 100;
const keysAStatement = 256;
const directBoundMs = 30_000;
const maxDirects = 50_000;
/** How long a given-up id whose commit has not come back is remembered: longer than any transaction lasts. */
const orphanMs = 60_000;

/** Rows and direct records of this process on their way to the producer's queue, in the order of each key. */
export class FastPath {
  readonly #o: FastPathOptions;
  readonly #lanes = new Lanes<FastRow>();
  /** Rows queued and not acknowledged, oldest first. */
  readonly #rows = new Map<bigint, FastRow>();
  /** Oldest first. One timer bounds them all: one for each would cost as much as the record. */
  readonly #directs = new Set<Direct>();
  readonly #heldLanes = new Set<Lane<FastRow>>();
  readonly #orphans = new Map<bigint, number>();
  readonly #adoptions = new Map<Lane<FastRow>, Promise<void>>();
  readonly #ticker: NodeJS.Timeout;
  #givingUp: Promise<void> | undefined;
  #lastNotify = 0;
  #notifyTimer: NodeJS.Timeout | undefined;

  constructor(options: FastPathOptions) {
    this.#o = options;
    this.#ticker = setInterval(() => this.#tick(), tickMs).unref();
  }

  /** Rows that this process still has to publish. */
  get outstanding(): number {
    return this.#rows.size;
  }

  /** Takes over the rows of a commit. Synchronous: what a caller does after it comes behind these rows in its key. */
  committed(rows: readonly CommittedRow[]): void {
    if (rows.length > 0) failPoint('outbox.committed');
    let given = false;
    for (const row of rows) {
      const lane = this.#lanes.get(row.topic, row.key);
      if (!row.fast || this.#orphans.delete(row.id)) {
        lane.mustAdopt ||= lane.direct;
        given = true;
        continue;
      }
      const fastRow: FastRow = { ...row, since: performance.now(), sending: undefined, givenUp: false };
      if (lane.state === 'giving-up') {
        lane.late.push(fastRow);
      } else if (this.#rows.size >= this.#o.maxRows) {
        lane.held.push({ ...fastRow, since: Number.NEGATIVE_INFINITY });
        this.#heldLanes.add(lane);
      } else {
        this.#admit(lane, fastRow);
      }
    }
    if (given) this.#notifySoon();
  }

  /** Queues a direct record behind everything of its key (delivery rule 2). Faults: ABORTED, KAFKA_UNAVAILABLE, RECORD_REFUSED. */
  direct(record: PlainRecord, signal: AbortSignal | undefined): Promise<Receipt> {
    if (signal?.aborted) return Promise.reject(asFault(signal.reason));
    if (this.#directs.size >= maxDirects) {
      return Promise.reject(fault('KAFKA_UNAVAILABLE', 'too many records wait for the broker'));
    }
    const { producer, metrics } = this.#o;
    const lane = this.#lanes.get(record.topic, record.key);
    lane.direct = true;
    const { promise, resolve, reject } = Promise.withResolvers<Receipt>();
    let queued = false;
    const over = (result: 'ok' | 'refused' | 'aborted') => {
      this.#directs.delete(direct);
      signal?.removeEventListener('abort', onAbort);
      if (queued) lane.directQueued -= 1;
      metrics.published('direct', result);
    };
    const sending: Sending = {
      topic: record.topic,
      key: record.key,
      bytes: wireBytes(record),
      withdrawn: false,
      record: () => record,
      sent: (receipt) => {
        over('ok');
        resolve(receipt);
      },
      refused: (reason) => {
        over('refused');
        reject(reason);
      },
    };
    const direct: Direct = {
      since: performance.now(),
      end(reason) {
        sending.withdrawn = true; // a try under way may still succeed: the caller knows only that it has no answer
        over('aborted');
        reject(reason);
      },
    };
    const onAbort = () => direct.end(asFault(signal?.reason));
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#directs.add(direct);
    lane.behind.push(() => {
      if (sending.withdrawn) return;
      queued = true;
      lane.directQueued += 1;
      producer.enqueue(sending);
    });
    this.#release(lane);
    return promise;
  }

  /**
   * Sends the rows of the key that others have written or given up, in id order, and deletes them (delivery rule 19). Direct
   * records of the key wait until it is done. Faults: DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE, ABORTED.
   */
  async adopt(topic: TopicName, key: string, signal: AbortSignal | undefined): Promise<void> {
    const lane = this.#lanes.get(topic, key);
    lane.direct = true;
    while (lane.state === 'giving-up') await this.#givingUp;
    const adoption = this.#adoption(lane);
    if (signal === undefined) return await adoption;
    signal.throwIfAborted();
    const { promise, reject } = Promise.withResolvers<never>();
    const onAbort = () => reject(asFault(signal.reason));
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([adoption, promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** For a stop: waits for the queue until the signal, leaves what is left to the relay. */
  async drain(signal: AbortSignal): Promise<void> {
    clearInterval(this.#ticker);
    await this.#o.producer.idle(signal);
    const lanes = new Set([...this.#rows.values()].map((row) => this.#lanes.get(row.topic, row.key)));
    for (const lane of this.#heldLanes) lanes.add(lane);
    if (lanes.size > 0) await this.#giveUp([...lanes], 1);
    clearTimeout(this.#notifyTimer);
    this.#notifyTimer = undefined;
  }

  #admit(lane: Lane<FastRow>, row: FastRow): void {
    for (const ready of admit(lane, row)) this.#enqueue(lane, ready);
    if (lane.held.length > 0) this.#heldLanes.add(lane);
    else if (this.#heldLanes.delete(lane)) this.#release(lane);
  }

  #enqueue(lane: Lane<FastRow>, row: FastRow): void {
    const { metrics, producer, sentRows, refusedRows } = this.#o;
    const over = () => {
      this.#rows.delete(row.id);
      lane.outstanding.delete(row.id);
    };
    row.sending = sendRow(row, 'fast', {
      sent: () => {
        over();
        metrics.published('fast', 'ok');
        metrics.publishSeconds((performance.now() - row.since) / 1_000);
        failPoint('outbox.published');
        sentRows.add(row);
      },
      refused: (reason) => {
        over();
        metrics.published('fast', 'refused');
        refusedRows.add(row, reason);
      },
    });
    lane.outstanding.set(row.id, row);
    this.#rows.set(row.id, row);
    producer.enqueue(row.sending);
  }

  /** Lets the direct records of an open lane go, in the order in which they came; adopts first where that is due. */
  #release(lane: Lane<FastRow>): void {
    if (lane.state !== 'open' || lane.held.length > 0 || lane.behind.length === 0) return;
    if (lane.mustAdopt) {
      this.#adoption(lane).catch((error: unknown) => {
        this.#o.log.warning('outbox.adopt_failed', { error, topic: lane.topic });
        setTimeout(() => this.#release(lane), 250); // the records behind are bounded by their callers
      });
      return;
    }
    const behind = lane.behind;
    lane.behind = [];
    for (const go of behind) go();
  }

  #adoption(lane: Lane<FastRow>): Promise<void> {
    const running = this.#adoptions.get(lane);
    if (running !== undefined) return running;
    lane.state = 'adopting';
    lane.mustAdopt = true;
    const adoption = adoptRows(this.#o, lane.topic, lane.key)
      .then(() => {
        lane.mustAdopt = false;
      })
      .finally(() => {
        lane.state = 'open';
        this.#adoptions.delete(lane);
      });
    this.#adoptions.set(lane, adoption);
    adoption.then(
      () => this.#release(lane),
      () => undefined,
    );
    return adoption;
  }

  #tick(): void {
    const now = performance.now();
    const overdue = new Set<Lane<FastRow>>();
    for (const row of this.#rows.values()) {
      if (now - row.since < this.#o.maxAgeMs) break;
      if (!row.givenUp) overdue.add(this.#lanes.get(row.topic, row.key));
    }
    for (const lane of this.#heldLanes) {
      const first = lane.held[0];
      if (first !== undefined && now - first.since >= this.#o.maxAgeMs) overdue.add(lane);
    }
    for (const direct of this.#directs) {
      if (now - direct.since < directBoundMs) break;
      direct.end(fault('KAFKA_UNAVAILABLE', 'the record was not acknowledged in time'));
    }
    for (const [id, at] of this.#orphans) {
      if (now - at < orphanMs) break;
      this.#orphans.delete(id);
    }
    const lanes = [...overdue].filter((lane) => lane.state === 'open');
    if (lanes.length > 0 && this.#givingUp === undefined) void this.#giveUp(lanes, Number.POSITIVE_INFINITY);
  }

  #giveUp(lanes: readonly Lane<FastRow>[], tries: number): Promise<void> {
    const chunks: Lane<FastRow>[][] = [];
    for (let at = 0; at < lanes.length; at += keysAStatement)
      chunks.push(lanes.slice(at, at + keysAStatement));
    const run = async () => {
      for (const chunk of chunks) await this.#giveUpChunk(chunk, tries);
    };
    this.#givingUp = run().finally(() => {
      this.#givingUp = undefined;
    });
    return this.#givingUp;
  }

  /**
   * Leaves the keys to the relay from their lowest row of ours on. A row with a direct record queued behind it stays in
   * the queue as well: withdrawn, it would be overtaken; sent twice, it is a repeat.
   */
  async #giveUpChunk(lanes: readonly Lane<FastRow>[], tries: number): Promise<void> {
    const keys: { topic: TopicName; key: string; fromId: bigint }[] = [];
    const known = new Set<bigint>();
    for (const lane of lanes) {
      const ids = [...lane.outstanding.keys(), ...lane.held.map((row) => row.id)];
      const lowest = ids.reduce<bigint | undefined>((a, b) => (a === undefined || b < a ? b : a), undefined);
      if (lowest === undefined) continue;
      keys.push({ topic: lane.topic, key: lane.key, fromId: lowest });
      for (const id of ids) known.add(id);
      lane.state = 'giving-up';
      lane.mustAdopt ||= lane.direct;
      const stays = lane.directQueued > 0;
      for (const row of lane.outstanding.values()) {
        if (!row.givenUp) this.#o.metrics.published('fast', 'given_up');
        row.givenUp = true;
        if (stays || row.sending === undefined) continue;
        row.sending.withdrawn = true;
        this.#rows.delete(row.id);
        lane.outstanding.delete(row.id);
      }
      for (const _ of lane.held) this.#o.metrics.published('fast', 'given_up');
      lane.held = [];
      this.#heldLanes.delete(lane);
    }
    if (keys.length === 0) return;
    const nulled = new Set(await this.#storeGivenUp(keys, tries));
    const now = performance.now();
    for (const lane of lanes) {
      if (lane.state !== 'giving-up') continue;
      lane.state = 'open';
      const late = lane.late;
      lane.late = [];
      // What committed meanwhile was either taken along, or put after it under the key's lock: then it is fast again.
      for (const row of late) {
        if (nulled.has(row.id)) nulled.delete(row.id);
        else this.#admit(lane, row);
      }
      this.#release(lane);
    }
    for (const id of nulled) if (!known.has(id)) this.#orphans.set(id, now);
    this.#o.log.warning('outbox.given_up', { keys: keys.length, rows: known.size });
    this.#notifySoon();
  }

  /** Repeats until the database answers: the keys' rows wait. Rows older than the relay's bound are its own anyway. */
  async #storeGivenUp(
    keys: readonly { topic: TopicName; key: string; fromId: bigint }[],
    tries: number,
  ): Promise<bigint[]> {
    for (let n = 1; ; n += 1) {
      try {
        return await giveUpRows(this.#o.database, this.#o.writer, keys);
      } catch (error) {
        this.#o.log.warning('outbox.give_up_failed', { error, keys: keys.length });
        if (n >= tries) return [];
        await pause(250, undefined, { unref: true });
      }
    }
  }

  // The relay's poll is the guarantee; this only wakes it. By itself, outside any transaction: a NOTIFY in them cost two
  // thirds of the commits.
  #notifySoon(): void {
    if (this.#notifyTimer !== undefined) return;
    const waitMs = Math.max(0, this.#lastNotify + notifyEveryMs - performance.now());
    this.#notifyTimer = setTimeout(() => {
      this.#notifyTimer = undefined;
      this.#lastNotify = performance.now();
      notifyGivenUp(this.#o.database).catch(() => undefined);
    }, waitMs).unref();
  }
}
