/** Entries that live for a time and of which there are at most so many; the one least recently used goes first. */
export class BoundedCache<T> {
  readonly #entries = new Map<string, { value: T; until: number }>();
  readonly #maxEntries: number;
  readonly #keepMs: number;
  readonly #now: () => number;

  constructor(maxEntries: number, keepMs: number, now: () => number) {
    this.#maxEntries = maxEntries;
    this.#keepMs = keepMs;
    this.#now = now;
  }

  get size(): number {
    return this.#entries.size;
  }

  get(key: string): T | undefined {
    const found = this.#entries.get(key);
    if (found === undefined) return undefined;
    this.#entries.delete(key);
    if (found.until <= this.#now()) return undefined;
    this.#entries.set(key, found);
    return found.value;
  }

  set(key: string, value: T): void {
    this.#entries.delete(key);
    this.#entries.set(key, { value, until: this.#now() + this.#keepMs });
    if (this.#entries.size <= this.#maxEntries) return;
    const [oldest] = this.#entries.keys();
    if (oldest !== undefined) this.#entries.delete(oldest);
  }
}
