import type { Queryable } from '@signalbox/postgres/database';

/** A row for the queue. `id` is the message's: a second row with it is a repeat and is left out. */
export interface WorkRow {
  readonly tenant: string;
  readonly id: string;
  /** The lane: what must run one after the other, in order (a session). */
  readonly key: string;
  /** Version of the payload; 1 unless given. A claim takes only formats its worker knows. */
  readonly format?: number;
  readonly payload: unknown;
  readonly notBefore?: Date;
  readonly traceparent?: string;
}

/** An item that this process has claimed. */
export interface WorkItem {
  readonly tenant: string;
  readonly key: string;
  readonly id: string;
  readonly format: number;
  readonly payload: unknown;
  /** Tries so far, this one included. Stays the same over parking. */
  readonly attempt: number;
  /** How many of them were retries after a failure. */
  readonly retries: number;
  readonly enqueuedAt: Date;
  readonly traceparent: string | undefined;
  /** Tries that ended without an outcome: the process died with them, or the run said nothing. Not known: none. */
  readonly lost?: number;
  /** Somebody asked for its end before this claim, and gave this. It is to be ended, not run. */
  readonly cancel?: unknown;
}

/** Who holds the lane of an item: the three values that every write of a holder carries. */
export interface Holder {
  readonly owner: string;
  /** Rises with each claim; below 2^53. */
  readonly fence: number;
}

export interface Claim {
  readonly item: WorkItem;
  readonly fence: number;
}

export interface ClaimTerms {
  readonly owner: string;
  readonly leaseMs: number;
  readonly formats: readonly number[];
}

export interface TenantLoad {
  readonly tenant: string;
  readonly waiting: number;
  readonly oldestSeconds: number;
}

export interface HeldLane {
  readonly tenant: string;
  readonly key: string;
  readonly fence: number;
  readonly renewed: boolean;
  /** The end of the item that runs in the lane was asked for. */
  readonly cancelled?: { readonly id: string; readonly cancel: unknown };
}

export interface CancelRequest {
  readonly tenant: string;
  readonly key: string;
  /** These items of the lane; every unfinished one if left out. */
  readonly ids?: readonly string[];
  /** What the items' holders are told, as JSON: who asked, why. */
  readonly cancel: unknown;
}

/**
 * What an item was when its end was asked for. `waiting`: it had not run and has ended, the caller says so where its
 * client looks. `running`: its holder ends it, in any process. `idle`: parked or between tries; claimed now, to be ended.
 */
export interface Cancelled {
  readonly id: string;
  readonly was: 'waiting' | 'running' | 'idle';
}

/** A result for a parked item. The caller has made sure that it counts once. */
export interface Resume {
  readonly tenant: string;
  readonly key: string;
  readonly id: string;
}

interface ClaimedColumns {
  claimed?: boolean;
  tenant: string;
  key: string;
  fence: string;
  id: string;
  format: number;
  payload: unknown;
  attempt: number;
  retries: number;
  enqueued_at: Date;
  traceparent: string | null;
  lost?: number;
  cancel?: unknown;
}

interface BeatColumns {
  tenant: string;
  key: string;
  fence: string;
  renewed: boolean;
  cancelled: string | null;
  cancel: unknown;
}

function toClaim(row: ClaimedColumns): Claim {
  return {
    fence: Number(row.fence),
    item: {
      tenant: row.tenant,
      key: row.key,
      id: row.id,
      format: row.format,
      payload: row.payload,
      attempt: row.attempt,
      retries: row.retries,
      enqueuedAt: row.enqueued_at,
      traceparent: row.traceparent ?? undefined,
      ...(row.lost === undefined ? {} : { lost: row.lost }),
      ...(row.cancel === undefined || row.cancel === null ? {} : { cancel: row.cancel }),
    },
  };
}

/** The rows as work_enqueue takes them, in one jsonb parameter. */
export function rowsJson(rows: readonly WorkRow[]): string {
  return JSON.stringify(
    rows.map((row) => ({
      tenant: row.tenant,
      id: row.id,
      key: row.key,
      format: row.format ?? 1,
      payload: row.payload,
      not_before: row.notBefore?.toISOString(),
      traceparent: row.traceparent,
    })),
  );
}

/**
 * The queue's SQL functions, one method each and one round trip each; what they promise stands above them in `sql/`.
 * Those that take a holder raise LEASE_LOST when the lane is no longer its. `tx` first where the statement belongs in
 * the caller's transaction.
 */
export interface WorkQueue {
  enqueue(tx: Queryable, rows: readonly WorkRow[]): Promise<string[]>;
  enqueueAndClaim(
    tx: Queryable,
    rows: readonly WorkRow[],
    slots: number,
    terms: ClaimTerms,
  ): Promise<{ ids: string[]; claims: Claim[] }>;
  resumeAndClaim(
    tx: Queryable,
    results: readonly Resume[],
    slots: number,
    terms: ClaimTerms,
  ): Promise<{ resumed: { id: string; pending: number }[]; claims: Claim[] }>;
  /** Items of one lane. A transaction that cancels in several, or enqueues besides, calls `lock` for all of them first. */
  cancel(tx: Queryable, request: CancelRequest): Promise<Cancelled[]>;
  lock(tx: Queryable, lanes: readonly { readonly tenant: string; readonly key: string }[]): Promise<void>;
  claim(terms: ClaimTerms, limit: number, takeExpired: boolean, after: string): Promise<Claim[]>;
  hold(tx: Queryable, item: WorkItem, holder: Holder): Promise<void>;
  finish(
    tx: Queryable,
    item: WorkItem,
    holder: Holder,
    state: 'done' | 'failed' | 'cancelled',
    error?: string,
  ): Promise<boolean>;
  park(tx: Queryable, item: WorkItem, holder: Holder, pending: number): Promise<void>;
  retry(tx: Queryable, item: WorkItem, holder: Holder, delayMs: number, error: string): Promise<void>;
  handOver(tx: Queryable, item: WorkItem, holder: Holder): Promise<void>;
  letGo(lane: Pick<HeldLane, 'tenant' | 'key' | 'fence'>, owner: string, started: boolean): Promise<boolean>;
  /** A failed item runs again as a new attempt, with no retry spent; false when it is not failed. Then `wake` the worker. */
  requeue(tx: Queryable, item: Pick<WorkItem, 'tenant' | 'id'>): Promise<boolean>;
  heartbeat(owner: string, leaseMs: number): Promise<HeldLane[]>;
  sweep(): Promise<number>;
  load(): Promise<TenantLoad[]>;
  prune(olderThanMs: number, limit: number): Promise<number>;
}

/** `database` serves claims and upkeep; heartbeats go over its urgent connection, so that nothing queues before them. */
export function workQueue(database: Queryable & { readonly urgent: Queryable }, schema: string): WorkQueue {
  const call = (name: string, parameters: string) => ({
    name: `${schema}_${name}`,
    text: `SELECT * FROM ${schema}.${name}(${parameters})`,
  });
  const enqueue = call('work_enqueue', '$1::jsonb');
  const enqueueAndClaim = call('work_enqueue_and_claim', '$1::jsonb, $2, $3, $4, $5');
  const resumeAndClaim = call('work_resume_and_claim', '$1::text[], $2::text[], $3::uuid[], $4, $5, $6, $7');
  const claim = call('work_claim_next', '$1, $2, $3, $4, $5, $6');
  const cancel = call('work_cancel', '$1, $2, $3::uuid[], $4::jsonb');
  const lock = call('work_lock', '$1::text[], $2::text[]');
  const hold = call('work_hold', '$1, $2, $3, $4');
  const finish = call('work_finish', '$1, $2, $3, $4, $5, $6, $7');
  const park = call('work_park', '$1, $2, $3, $4, $5, $6');
  const retry = call('work_retry', '$1, $2, $3, $4, $5, $6, $7');
  const handOver = call('work_hand_over', '$1, $2, $3, $4, $5');
  const letGo = call('work_let_go', '$1, $2, $3, $4, $5');
  const requeue = call('work_requeue', '$1, $2');
  const heartbeat = call('work_beat', '$1, $2');
  const prune = call('work_prune', '$1, $2');

  const place = (item: WorkItem, holder: Holder) => [item.tenant, item.key, holder.owner, holder.fence];

  return {
    async enqueue(tx, rows) {
      const found = await tx.query<{ work_enqueue: string }>(enqueue, [rowsJson(rows)]);
      return found.map((row) => row.work_enqueue);
    },
    async enqueueAndClaim(tx, rows, slots, terms) {
      const found = await tx.query<ClaimedColumns>(enqueueAndClaim, [
        rowsJson(rows),
        terms.owner,
        slots,
        terms.leaseMs,
        terms.formats,
      ]);
      return {
        ids: found.map((row) => row.id),
        claims: found.filter((row) => row.claimed === true).map(toClaim),
      };
    },
    async resumeAndClaim(tx, results, slots, terms) {
      const found = await tx.query<ClaimedColumns>(resumeAndClaim, [
        results.map((each) => each.tenant),
        results.map((each) => each.key),
        results.map((each) => each.id),
        terms.owner,
        slots,
        terms.leaseMs,
        terms.formats,
      ]);
      return {
        resumed: found.map((row) => ({ id: row.id, pending: row.claimed === true ? 0 : row.attempt })),
        claims: found.filter((row) => row.claimed === true).map(toClaim),
      };
    },
    async cancel(tx, { tenant, key, ids, cancel: told }) {
      return await tx.query<Cancelled>(cancel, [tenant, key, ids ?? null, JSON.stringify(told ?? {})]);
    },
    async lock(tx, lanes) {
      await tx.query(lock, [lanes.map((lane) => lane.tenant), lanes.map((lane) => lane.key)]);
    },
    async claim(terms, limit, takeExpired, after) {
      const values = [terms.owner, limit, terms.leaseMs, takeExpired, terms.formats, after];
      return (await database.query<ClaimedColumns>(claim, values)).map(toClaim);
    },
    async hold(tx, item, holder) {
      await tx.query(hold, place(item, holder));
    },
    async finish(tx, item, holder, state, error) {
      const values = [...place(item, holder), item.id, state, error ?? null];
      const rows = await tx.query<{ work_finish: boolean }>(finish, values);
      return rows[0]?.work_finish === true;
    },
    async park(tx, item, holder, pending) {
      await tx.query(park, [...place(item, holder), item.id, pending]);
    },
    async retry(tx, item, holder, delayMs, error) {
      await tx.query(retry, [...place(item, holder), item.id, Math.ceil(delayMs), error]);
    },
    async handOver(tx, item, holder) {
      await tx.query(handOver, [...place(item, holder), item.id]);
    },
    async letGo(lane, owner, started) {
      const values = [lane.tenant, lane.key, owner, lane.fence, started];
      const rows = await database.query<{ work_let_go: boolean }>(letGo, values);
      return rows[0]?.work_let_go === true;
    },
    async requeue(tx, { tenant, id }) {
      const rows = await tx.query<{ work_requeue: boolean }>(requeue, [tenant, id]);
      return rows[0]?.work_requeue === true;
    },
    async heartbeat(owner, leaseMs) {
      const rows = await database.urgent.query<BeatColumns>(heartbeat, [owner, leaseMs]);
      return rows.map(({ tenant, key, fence, renewed, cancelled: id, cancel: told }) => ({
        tenant,
        key,
        fence: Number(fence),
        renewed,
        ...(id === null ? {} : { cancelled: { id, cancel: told } }),
      }));
    },
    async sweep() {
      const rows = await database.query<{ found: number }>(`SELECT ${schema}.work_sweep() AS found`);
      return rows[0]?.found ?? 0;
    },
    async load() {
      const rows = await database.query<{ tenant: string; waiting: string; oldest_seconds: number }>(
        `SELECT tenant, waiting, oldest_seconds FROM ${schema}.work_load()`,
      );
      return rows.map((row) => ({
        tenant: row.tenant,
        waiting: Number(row.waiting),
        oldestSeconds: row.oldest_seconds,
      }));
    },
    async prune(olderThanMs, limit) {
      const rows = await database.query<{ work_prune: number }>(prune, [olderThanMs, limit]);
      return rows[0]?.work_prune ?? 0;
    },
  };
}
