import type { Queryable } from '@signalbox/postgres/database';

/** A probe for the readiness board's `auth_manager`: keys can be looked up. Throws the database's fault. */
export function authProbe(database: { readonly urgent: Queryable }): (signal: AbortSignal) => Promise<void> {
  return async () => {
    await database.urgent.query({ name: 'identity_find_key', text: 'SELECT * FROM identity.find_key($1)' }, [
      '000000000000',
    ]);
  };
}
