/** A bounded queue that takes its tenants in turns: many of one tenant delay that tenant alone. */
export class FairQueue<Item> {
  readonly #max: number;
  /** Those with something waiting, in the order of their turns. */
  readonly #tenants = new Map<string, Item[]>();
  #size = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get size(): number {
    return this.#size;
  }

  /** What finds no room any more: this one or, when another tenant has more than its own, the newest of that. */
  push(tenant: string, item: Item): Item | undefined {
    const own = this.#tenants.get(tenant);
    if (own === undefined) this.#tenants.set(tenant, [item]);
    else own.push(item);
    this.#size += 1;
    return this.#size > this.#max ? this.#dropNewest(tenant) : undefined;
  }

  take(): Item | undefined {
    const [first] = this.#tenants;
    if (first === undefined) return undefined;
    const [tenant, items] = first;
    const item = items.shift();
    this.#tenants.delete(tenant);
    if (items.length > 0) this.#tenants.set(tenant, items);
    this.#size -= 1;
    return item;
  }

  #dropNewest(newcomer: string): Item | undefined {
    let most = newcomer;
    for (const [tenant, items] of this.#tenants) {
      if (items.length > (this.#tenants.get(most)?.length ?? 0)) most = tenant;
    }
    const items = this.#tenants.get(most);
    const dropped = items?.pop();
    if (items?.length === 0) this.#tenants.delete(most);
    this.#size -= 1;
    return dropped;
  }
}
