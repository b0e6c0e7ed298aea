import { newId } from '@signalbox/contracts/ids';
import { fault } from '@signalbox/faults/fault';
import type { Queryable } from '@signalbox/postgres/database';
import { hashApiKey, parseApiKey } from './key-form.ts';

export interface NewKey {
  readonly tenant: string;
  /** The whole key; only its hash is stored. */
  readonly text: string;
  readonly name: string;
  readonly scopes?: readonly string[];
  readonly expiresAt?: Date;
  readonly keyId?: string;
}

/**
 * Stores a key; false when its lookup id exists already (seeding twice). As a service: in a transaction of the key's
 * tenant; as the owner: any tenant's. Faults: VALIDATION_ERROR for a text that is no key.
 */
export async function createKey(tx: Queryable, key: NewKey): Promise<boolean> {
  const parsed = parseApiKey(key.text);
  if (parsed === undefined)
    throw fault('VALIDATION_ERROR', 'not of the form sk_<environment>_<lookup>_<secret>');
  const rows = await tx.query<{ made: boolean }>(
    'SELECT identity.create_key($1, $2, $3, $4, $5, $6, $7) AS made',
    [
      key.tenant,
      key.keyId ?? newId(),
      parsed.lookup,
      hashApiKey(key.text),
      key.name,
      key.scopes ?? [],
      key.expiresAt ?? null,
    ],
  );
  return rows[0]?.made === true;
}

/** Makes the tenant if it is missing. For seed and later the admin's route; runs as the owner. */
export async function createTenant(owner: Queryable, tenant: string, name: string): Promise<boolean> {
  const rows = await owner.query(
    'INSERT INTO identity.tenants (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING tenant',
    [tenant, name],
  );
  return rows.length === 1;
}
