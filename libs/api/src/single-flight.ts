/** What became of the one that went first. */
export type FlightResult<R> = { readonly kept: true; readonly result: R } | { readonly kept: false };

/**
 * Lets one request of a key through at a time. The others wait for it: when it left something to answer from, they get
 * that; when it did not (it was refused, it failed), the next of them goes itself. So requests with one idempotency key
 * never stand in one batch, where neither would see the other's row and both would have their effect (delivery rule 24).
 */
export function createSingleFlight<R>() {
  const flights = new Map<string, Promise<FlightResult<R>>>();
  return async function run(
    key: string,
    go: () => Promise<R>,
    keeps: (result: R) => boolean,
    follow: (first: R) => R,
  ): Promise<R> {
    for (;;) {
      const ahead = flights.get(key);
      if (ahead === undefined) break;
      const outcome = await ahead;
      if (outcome.kept) return follow(outcome.result);
    }
    const gone = go();
    const flight = gone.then(
      (result): FlightResult<R> => (keeps(result) ? { kept: true, result } : { kept: false }),
      (): FlightResult<R> => ({ kept: false }),
    );
    flights.set(key, flight);
    try {
      return await gone;
    } finally {
      if (flights.get(key) === flight) flights.delete(key);
    }
  };
}
