import { fault } from '@signalbox/faults/fault';

/**
 * What a key may do beyond what every key of its tenant may. `dlq:read`: see dead letters, which hold what people wrote;
 * `dlq:write`: send them again, delete them.
 */
export type Scope = 'dlq:read' | 'dlq:write';

/** Throws FORBIDDEN for a credential that was not given the scope. */
export function requireScope(identity: { readonly scopes: readonly string[] }, scope: Scope): void {
  if (identity.scopes.includes(scope)) return;
  throw fault('FORBIDDEN', `this needs a key with the scope ${scope}`);
}
