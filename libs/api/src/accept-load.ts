import { asFault, fault } from '@signalbox/faults/fault';
import { outboxFull } from './outbox-full.ts';

export interface AcceptLoad {
  /**
   * A place for one of them on its way in, to be given back when it is known whether it was stored. Throws OUTBOX_FULL or
   * TENANT_BUSY; answers at once, from the last count.
   */
  admit(tenant: string): Place;
  /** Counts anew now; a timer of the caller does it otherwise. Never throws: the old counts hold while it cannot. */
  refresh(): Promise<void>;
}

export interface Place {
  /** It was stored (it counts until the database counts it) or it was not. Call it once. */
  settle(stored: boolean): void;
}

export interface AcceptLoadOptions {
  /** What is counted, for the refusal: `turns`, `tasks`. */
  readonly what: string;
  readonly maxOpen: number;
  /** Whether OUTBOX_MAX_ROWS wait for the broker, as last counted. */
  isOutboxFull(): boolean;
  /** What these tenants have open, counted up to a bound. */
  countOpen(tenants: readonly string[], bound: number): Promise<ReadonlyMap<string, number>>;
  onFailure(error: unknown): void;
  now?(): number;
}

interface TenantLoad {
  /** As the database counted. */
  counted: number;
  /** Accepted here since that count began; those of other replicas are seen at the next. */
  since: number;
  /** Admitted here and not settled: a burst that comes while statements are slow must not pass the bound. */
  pending: number;
  usedAt: number;
}

/** They are counted a few times a second; a turn or task takes longer than this. */
export const busyRetrySeconds = 1;

/** A tenant that sent nothing for this long is not counted any more. */
const forgetMs = 60_000;

/**
 * The two bounds at the door (delivery rules 8, 16): rows that wait for the broker, and turns or tasks of a tenant that wait or run.
 * A count a request would cost more than the accept itself, so the database counts a few times a second, and what this
 * replica accepts or has under way in between is added. R replicas overshoot by what R − 1 of them take in one refresh.
 */
export function createAcceptLoad(options: AcceptLoadOptions): AcceptLoad {
  const { what, maxOpen, isOutboxFull, countOpen, onFailure, now = () => performance.now() } = options;
  const tenants = new Map<string, TenantLoad>();
  let refreshing: Promise<void> | undefined;

  function loadOf(tenant: string): TenantLoad {
    let load = tenants.get(tenant);
    if (load === undefined) {
      load = { counted: 0, since: 0, pending: 0, usedAt: now() };
      tenants.set(tenant, load);
    }
    load.usedAt = now();
    return load;
  }

  async function count(): Promise<void> {
    for (const [tenant, load] of tenants) {
      if (load.pending === 0 && now() - load.usedAt > forgetMs) tenants.delete(tenant);
    }
    const before = [...tenants].map(([tenant, load]) => ({ tenant, load, since: load.since }));
    if (before.length === 0) return;
    try {
      const counts = await countOpen(
        before.map(({ tenant }) => tenant),
        maxOpen + 1,
      );
      for (const { tenant, load, since } of before) {
        load.counted = counts.get(tenant) ?? 0;
        load.since -= since;
      }
    } catch (error) {
      onFailure(asFault(error));
    }
  }

  return {
    admit(tenant) {
      if (isOutboxFull()) throw outboxFull();
      const load = loadOf(tenant);
      if (load.counted + load.since + load.pending >= maxOpen) {
        throw fault('TENANT_BUSY', `${maxOpen} ${what} of this tenant wait or run`, {
          retryAfterMs: 1000,
        });
      }
      load.pending += 1;
      return {
        settle(stored) {
          load.pending -= 1;
          if (stored) load.since += 1;
        },
      };
    },
    refresh() {
      refreshing ??= count().finally(() => {
        refreshing = undefined;
      });
      return refreshing;
    },
  };
}
