/** How many records a call of a handler gets, by the time that the calls before took. */
export interface BatchSize {
  readonly limit: number;
  /** Told of each call of so many records; true when what took too long comes again in a smaller call. */
  told(outcome: 'ok' | 'away', records: number, tookMs: number): boolean;
}

/**
 * A call that runs into its bound comes again, and in the same size it would do so for ever: 256 records at 16 ms each never
 * fit into 3 s, and the tries are load for whoever is too slow. So it comes again by half, and grows after calls that
 * would have had the time for twice as many. Order holds: whatever its size, a call gets the first records that are open.
 */
export function createBatchSize(max: number, boundMs: number): BatchSize {
  let limit = max;
  return {
    get limit() {
      return limit;
    },
    told(outcome, records, tookMs) {
      if (outcome === 'ok') {
        if (tookMs < boundMs / 2) limit = Math.min(limit * 2, max);
        return false;
      }
      if (tookMs < boundMs / 2 || records <= 1) return false;
      limit = Math.max(Math.min(limit, records) >> 1, 1);
      return true;
    },
  };
}
