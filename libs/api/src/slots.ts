export type Slots = <T>(run: () => Promise<T>) => Promise<T>;

/** At most `count` runs at once, the others in turn: 10 000 readers that come back must not take the database's pool. */
export function createSlots(count: number): Slots {
  let free = count;
  const queue: (() => void)[] = [];
  return async (run) => {
    if (free > 0) free -= 1;
    else await new Promise<void>((resolve) => queue.push(resolve));
    try {
      return await run();
    } finally {
      const next = queue.shift();
      if (next === undefined) free += 1;
      else next(); // the slot passes on
    }
  };
}
