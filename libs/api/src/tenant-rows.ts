/** Rows of one batch with those of a tenant side by side, as the SQL functions take them. */
export interface TenantRows<T> {
  readonly tenants: readonly string[];
  /** Index (from 1) of the last row of each tenant. */
  readonly upto: readonly number[];
  readonly rows: readonly T[];
  /** For each row, where it stood in the input. */
  readonly origin: readonly number[];
}

/** Groups rows by tenant; tenants in text order, so that every caller locks them in the same order. */
export function groupByTenant<T extends { readonly tenant: string }>(items: readonly T[]): TenantRows<T> {
  const byTenant = new Map<string, number[]>();
  for (const [index, { tenant }] of items.entries()) {
    const found = byTenant.get(tenant);
    if (found === undefined) byTenant.set(tenant, [index]);
    else found.push(index);
  }
  const tenants = [...byTenant.keys()].sort();
  const upto: number[] = [];
  const rows: T[] = [];
  const origin: number[] = [];
  for (const tenant of tenants) {
    for (const index of byTenant.get(tenant) ?? []) {
      const item = items[index];
      if (item === undefined) continue;
      rows.push(item);
      origin.push(index);
    }
    upto.push(rows.length);
  }
  return { tenants, upto, rows, origin };
}
