import { type TopicName, topics } from '@signalbox/contracts/topics';
import { asFault, fault } from '@signalbox/faults/fault';
import { failPoint } from '@signalbox/lifecycle/fail-point';
import { pause } from '@signalbox/lifecycle/pause';
import type { Database } from '@signalbox/postgres/database';
import type { Logger } from '@signalbox/telemetry/telemetry';
import { adoptRows } from './adopt-rows.ts';
import { DirectRecords } from './direct-records.ts';
import { createGivenUpNotice } from './given-up-notice.ts';
import type { MessagingMetrics } from './messaging-metrics.ts';
import { admit, type Lane, Lanes } from './outbox-lanes.ts';
import { giveUpRows, type OutboxRecord, type PutRow } from './outbox-sql.ts';
import type { PlainRecord, Receipt } from './outgoing.ts';
import type { Producer, Sending } from './producer.ts';
import type { RefusedRows } from './refused-rows.ts';
import { sendRow } from './row-sending.ts';
import type { SentRows } from './sent-rows.ts';

/** A row as its commit brought it back. */
type CommittedRow = OutboxRecord & PutRow;

interface FastRow extends OutboxRecord, PutRow {
  /** Monotonic milliseconds of its commit; what the age bound counts from. */
  readonly since: number;
  sending: Sending | undefined;
  /** The relay has it too; it stays queued here only because direct records are queued behind it. */
  givenUp: boolean;
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
const keysAStatement = 256;
/** How long a given-up id whose commit has not come back is remembered: longer than any transaction lasts. */
const orphanMs = 60_000;

/** Rows and direct records of this process on their way to the producer's queue, in the order of each key. */
export class FastPath {
  readonly #o: FastPathOptions;
  readonly #lanes = new Lanes<FastRow>();
  /** Rows queued and not acknowledged, oldest first. */
  readonly #rows = new Map<bigint, FastRow>();
  readonly #directs: DirectRecords;
  readonly #notice: ReturnType<typeof createGivenUpNotice>;
  readonly #heldLanes = new Set<Lane<FastRow>>();
  readonly #unanswered = new Set<Lane<FastRow>>();
  readonly #orphans = new Map<bigint, number>();
  readonly #adoptions = new Map<Lane<FastRow>, Promise<void>>();
  readonly #ticker: NodeJS.Timeout;
  #givingUp: Promise<void> | undefined;
  #leaving = false;
  #draining = false;

  constructor(options: FastPathOptions) {
    this.#o = options;
    this.#notice = createGivenUpNotice(options.database);
    this.#directs = new DirectRecords(options.metrics);
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
    if (given) this.#notice.soon();
  }

  /**
   * A put of these keys was not answered. Its rows may be there: they are left to the relay as soon as the database
   * answers, and before the next direct record of their key, which they would come after.
   */
  unanswered(keys: readonly { readonly topic: TopicName; readonly key: string }[]): void {
    for (const { topic, key } of keys) {
      const lane = this.#lanes.get(topic, key);
      lane.unanswered += 1;
      lane.mustAdopt ||= lane.direct;
      this.#unanswered.add(lane);
    }
  }

  /** Whether this process has queued the row of its own that the outbox holds last of the key. */
  knows(topic: TopicName, key: string, lastOwnRow: bigint): boolean {
    return lastOwnRow <= this.#lanes.get(topic, key).lastQueued;
  }

  /** Queues a direct record behind everything of its key (delivery rule 2). Faults: ABORTED, KAFKA_UNAVAILABLE, RECORD_REFUSED. */
  direct(record: PlainRecord, signal: AbortSignal | undefined): Promise<Receipt> {
    if (signal?.aborted) return Promise.reject(asFault(signal.reason));
    if (this.#directs.full) {
      return Promise.reject(fault('KAFKA_UNAVAILABLE', 'too many records wait for the broker'));
    }
    const { partition = 0 } = record;
    if (!(Number.isInteger(partition) && partition >= 0 && partition < topics[record.topic].partitions)) {
      return Promise.reject(fault('RECORD_REFUSED', `${record.topic} has no partition ${partition}`));
    }
    const lane = this.#lanes.get(record.topic, record.key);
    lane.direct = true;
    let queued = false;
    const { sending, answer } = this.#directs.open(record, signal, () => {
      if (queued) lane.directQueued -= 1;
    });
    lane.behind.push(() => {
      if (sending.withdrawn) return;
      queued = true;
      lane.directQueued += 1;
      this.#o.producer.enqueue(sending);
    });
    this.#release(lane);
    return answer;
  }

  /**
   * Sends the rows of the key that others have written or given up, and those of its own that this process does not know,
   * in id order, and deletes them (delivery rule 19). Direct records of the key wait until it is done. Faults: DATABASE_UNAVAILABLE, KAFKA_UNAVAILABLE, ABORTED.
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
    this.#draining = true;
    await this.#o.producer.idle(signal);
    await this.#leaveUnanswered();
    const lanes = new Set([...this.#rows.values()].map((row) => this.#lanes.get(row.topic, row.key)));
    for (const lane of this.#heldLanes) lanes.add(lane);
    if (lanes.size > 0) await this.#giveUp([...lanes], 1);
    this.#notice.close();
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
    if (lane.mustAdopt || lane.unanswered > 0) {
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
    lane.mustAdopt = false; // what goes to the relay from here on asks for another adoption
    const adoption = this.#leaveUnknown([lane])
      .then(() => adoptRows(this.#o, lane.topic, lane.key))
      .catch((error: unknown) => {
        lane.mustAdopt = true;
        throw error;
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
    this.#directs.endOverdue(now);
    for (const [id, at] of this.#orphans) {
      if (now - at < orphanMs) break;
      this.#orphans.delete(id);
    }
    const lanes = [...overdue].filter((lane) => lane.state === 'open');
    if (lanes.length > 0 && this.#givingUp === undefined) void this.#giveUp(lanes, Number.POSITIVE_INFINITY);
    if (this.#unanswered.size > 0) void this.#leaveUnanswered();
  }

  /** Rows that this process may have put and does not know of: the relay would find them only when they are old. */
  async #leaveUnanswered(): Promise<void> {
    if (this.#leaving) return;
    this.#leaving = true;
    try {
      const lanes = [...this.#unanswered].filter((lane) => lane.state === 'open').slice(0, keysAStatement);
      if (lanes.length > 0) await this.#leaveUnknown(lanes);
    } catch (error) {
      this.#o.log.debug('outbox.give_up_failed', { error });
    } finally {
      this.#leaving = false;
    }
  }

  /**
   * Leaves to the relay what the outbox holds of ours above the last row that was queued here. Such a row comes about when
   * the answer to its commit is lost, or late:
   *
   *   finish_turn puts row 7 and commits; the connection breaks before the answer; this process claims the session's next
   *   turn. Row 7 names this process as its writer, so it is nobody else's, and it is in no queue either: without this
   *   the deltas of the next turn would reach the log before the final in row 7, which the relay takes when it is old.
   *
   * A row of the key that is put later names row 7 as the one before it, so it waits in `held` and is taken along. A row
   * whose commit is answered after this is known by its id (`#orphans`), and is not queued again.
   */
  async #leaveUnknown(lanes: readonly Lane<FastRow>[]): Promise<void> {
    const asked = lanes.map((lane) => ({ lane, unanswered: lane.unanswered }));
    const keys = lanes.map(({ topic, key, lastQueued }) => ({ topic, key, fromId: lastQueued + 1n }));
    const left = new Set(await giveUpRows(this.#o.database, this.#o.writer, keys));
    const answered = new Set<bigint>();
    for (const { lane, unanswered } of asked) {
      if (lane.unanswered === unanswered) {
        lane.unanswered = 0;
        this.#unanswered.delete(lane);
      }
      for (const { id } of lane.held) if (left.has(id)) answered.add(id);
      lane.held = lane.held.filter(({ id }) => !left.has(id));
      if (lane.held.length === 0) this.#heldLanes.delete(lane);
      this.#release(lane);
    }
    if (left.size === 0) return;
    const now = performance.now();
    for (const id of left) if (!answered.has(id) && !this.#rows.has(id)) this.#orphans.set(id, now);
    this.#o.log.warning('outbox.given_up', { keys: keys.length, rows: left.size });
    this.#notice.soon();
  }

  #giveUp(lanes: readonly Lane<FastRow>[], tries: number): Promise<void> {
    const chunks: Lane<FastRow>[][] = [];
    for (let at = 0; at < lanes.length; at += keysAStatement)
      chunks.push(lanes.slice(at, at + keysAStatement));
    // One behind the other: who waits for a lane that is being given up waits for the last of them.
    const run = async (before: Promise<void> | undefined) => {
      await before;
      for (const chunk of chunks) await this.#giveUpChunk(chunk, tries);
    };
    const running = run(this.#givingUp).finally(() => {
      if (this.#givingUp === running) this.#givingUp = undefined;
    });
    this.#givingUp = running;
    return running;
  }

  /**
   * Leaves the keys to the relay from their lowest row of ours on, the missing predecessor of a held row among them. A row with a direct record queued behind it stays in
   * the queue as well: withdrawn, it would be overtaken; sent twice, it is a repeat.
   */
  async #giveUpChunk(lanes: readonly Lane<FastRow>[], tries: number): Promise<void> {
    const keys: { topic: TopicName; key: string; fromId: bigint }[] = [];
    const known = new Set<bigint>();
    for (const lane of lanes) {
      const ids = [...lane.outstanding.keys(), ...lane.held.map((row) => row.id)];
      const lowest = ids.reduce<bigint | undefined>((a, b) => (a === undefined || b < a ? b : a), undefined);
      if (lowest === undefined) continue;
      const after = lane.lastQueued + 1n;
      keys.push({ topic: lane.topic, key: lane.key, fromId: lowest < after ? lowest : after });
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
    this.#notice.soon();
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
        if (n >= tries || this.#draining) return [];
        await pause(250, undefined, { unref: true });
      }
    }
  }
}
