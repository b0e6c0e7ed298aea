interface Waiting<T, R> {
  readonly item: T;
  resolve(result: R): void;
  reject(error: unknown): void;
}

/**
 * Makes one call of the calls that are made within one turn of the event loop: by group, and by so many at most. `run`
 * answers each item at its place; its rejection is everybody's. It runs in the context (trace, log fields) of the first.
 */
export function coalesced<T, R>(
  maxItems: number,
  run: (items: readonly T[]) => Promise<readonly R[]>,
  groupOf: (item: T) => string = () => '',
): (item: T) => Promise<R> {
  const groups = new Map<string, Waiting<T, R>[]>();

  async function runGroup(group: readonly Waiting<T, R>[]): Promise<void> {
    try {
      const results = await run(group.map(({ item }) => item));
      if (results.length !== group.length) throw new Error('a coalesced call answers every item');
      for (const [place, result] of results.entries()) group[place]?.resolve(result);
    } catch (error) {
      for (const { reject } of group) reject(error);
    }
  }

  return (item) =>
    new Promise((resolve, reject) => {
      const name = groupOf(item);
      const waiting = { item, resolve, reject };
      const group = groups.get(name);
      if (group !== undefined && group.length < maxItems) {
        group.push(waiting);
        return;
      }
      const fresh = [waiting];
      groups.set(name, fresh);
      setImmediate(() => {
        if (groups.get(name) === fresh) groups.delete(name);
        void runGroup(fresh);
      });
    });
}
