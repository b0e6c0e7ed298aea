import type { QueueNames } from '../queue-migration.ts';
import { definer } from './tables.ts';

/**
 * Holding a lane. Every write of a holder goes through work_hold in its own transaction: it locks the lane while owner
 * and fence are still the holder's, so the lane cannot be taken before that transaction ends, or raises SB001.
 *
 *   A holds L (fence 7), stalls past its lease; B takes L over (fence 8, attempt 2)
 *   A wakes and writes a step: work_hold(…, A, 7) finds no row → SB001, the transaction is rolled back
 */
export function leaseSql({ schema }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  return `
CREATE FUNCTION ${schema}.work_hold(p_tenant text, p_key text, p_owner uuid, p_fence bigint) RETURNS void
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  PERFORM 1 FROM ${lanes} l
  WHERE l.tenant = p_tenant AND l.key = p_key AND l.owner = p_owner AND l.fence = p_fence FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'lease lost' USING ERRCODE = 'SB001';
  END IF;
END;
$$;

-- Renews every lane of p_owner for p_lease_ms from now, expired or not as long as nobody took it, and answers with all
-- it holds. A lane that a transaction has locked at this moment is not waited for (one slow transaction would cost the
-- process all its other leases): it comes back with renewed = false and has its turn at the next beat.
CREATE FUNCTION ${schema}.work_heartbeat(p_owner uuid, p_lease_ms int)
RETURNS TABLE (tenant text, key text, fence bigint, renewed boolean)
LANGUAGE sql ${definer} AS $$
  WITH mine AS MATERIALIZED (
    SELECT l.tenant, l.key FROM ${lanes} l WHERE l.owner = p_owner ORDER BY l.tenant, l.key FOR UPDATE SKIP LOCKED
  ), held AS (
    UPDATE ${lanes} l SET until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
    FROM mine WHERE l.tenant = mine.tenant AND l.key = mine.key
    RETURNING l.tenant, l.key, l.fence
  )
  SELECT held.tenant::text, held.key::text, held.fence, true FROM held
  UNION ALL
  SELECT l.tenant::text, l.key::text, l.fence, false FROM ${lanes} l
  WHERE l.owner = p_owner AND (l.tenant, l.key) NOT IN (SELECT held.tenant, held.key FROM held);
$$;
`;
}
