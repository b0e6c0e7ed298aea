import type { QueueNames } from '../queue-migration.ts';
import { claimedColumns, definer } from './tables.ts';

const claimedNulls = `NULL::text, NULL::text, NULL::bigint, n.id, NULL::smallint, NULL::jsonb, NULL::int, NULL::int,
    NULL::timestamptz, NULL::text`;

/**
 * Intake. A row is [{tenant, id, key, format?, payload, not_before?, traceparent?}, …]; order within a lane is the order
 * of the rows.
 *
 * Touching the lane is what makes "release" and "is there more" safe against an intake at the same moment:
 *
 *   intake inserts item 2, touches L: waits, the release of item 1 holds L's lock
 *   release reads "nothing more" (2 is not committed), frees L with ready_at null, commits
 *   intake goes on with the new row of L: free, so ready_at = now                     → 2 will be claimed
 * or
 *   intake inserts 2, touches L (held: only locked), commits
 *   release waited for L's lock; its next statement sees 2 and frees L with ready_at  → 2 will be claimed
 */
export function enqueueSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  return `
-- Inserts the rows that are not there yet, in order, and makes their lanes ready unless held or waiting already.
-- Tells the ids that are new and the lanes that became ready by this.
CREATE FUNCTION ${schema}.work_put(p_rows jsonb, OUT ids uuid[], OUT tenants text[], OUT keys text[])
LANGUAGE plpgsql ${definer.replace('SECURITY DEFINER', 'SECURITY INVOKER')} AS $$
BEGIN
  WITH fresh AS (
    INSERT INTO ${work} AS i (tenant, id, key, format, payload, not_before, traceparent)
    SELECT e.row ->> 'tenant', (e.row ->> 'id')::uuid, e.row ->> 'key', coalesce((e.row ->> 'format')::smallint, 1),
           coalesce(e.row -> 'payload', '{}'), (e.row ->> 'not_before')::timestamptz, e.row ->> 'traceparent'
    FROM jsonb_array_elements(p_rows) WITH ORDINALITY AS e(row, ord) ORDER BY e.ord
    ON CONFLICT (tenant, id) DO NOTHING
    RETURNING i.id, i.tenant, i.key, i.seq
  )
  SELECT array_agg(f.id ORDER BY f.seq), array_agg(f.tenant::text ORDER BY f.seq), array_agg(f.key::text ORDER BY f.seq)
  INTO ids, tenants, keys FROM fresh f;
  IF ids IS NULL THEN
    ids := '{}';
    tenants := '{}';
    keys := '{}';
    RETURN;
  END IF;
  WITH touched AS (
    INSERT INTO ${lanes} AS l (tenant, key, ready_at)
    SELECT d.tenant, d.key, clock_timestamp() FROM (
      SELECT DISTINCT n.tenant COLLATE "C" AS tenant, n.key COLLATE "C" AS key
      FROM unnest(tenants, keys) AS n(tenant, key)) d ORDER BY d.tenant, d.key
    ON CONFLICT (tenant, key) DO UPDATE SET ready_at = clock_timestamp() WHERE l.owner IS NULL AND l.ready_at IS NULL
    RETURNING l.tenant, l.key
  )
  SELECT coalesce(array_agg(t.tenant::text), '{}'), coalesce(array_agg(t.key::text), '{}') INTO tenants, keys FROM touched t;
END;
$$;
REVOKE ALL ON FUNCTION ${schema}.work_put(jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ${schema}.work_put(jsonb) TO signalbox_queue;

-- The ids that are new; the others were delivered before.
CREATE FUNCTION ${schema}.work_enqueue(p_rows jsonb) RETURNS SETOF uuid
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_ids uuid[];
BEGIN
  SELECT p.ids INTO v_ids FROM ${schema}.work_put(p_rows) p;
  RETURN QUERY SELECT unnest(v_ids);
END;
$$;

-- Enqueue, and lease up to p_slots of the lanes that became ready by it to p_owner in the same transaction: the first
-- delta then does not wait for a second round trip. One row with claimed = false for each new id, then one with
-- claimed = true for each item to run, which the caller starts after the commit and not before.
--
-- The lanes are locked by this transaction since they were touched, so no other claim sees them before the commit:
--   commit            the item is running under p_owner; another claim finds the lane held
--   rollback          nothing was enqueued, nothing is held
--   commit, but its answer is lost, or the process dies before it starts the item
--                     the lane is p_owner's although nobody runs it: the owner's heartbeat brings back a lane it does
--                     not know and it lets go of it (work_let_go); a dead owner's lease runs out and is taken over
-- Lanes that were ready before keep their place: only lanes that nobody was waiting in are taken past the tenants' turn.
CREATE FUNCTION ${schema}.work_enqueue_and_claim(p_rows jsonb, p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
RETURNS TABLE (claimed boolean, ${claimedColumns})
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_column
DECLARE
  v_put record;
BEGIN
  SELECT * INTO v_put FROM ${schema}.work_put(p_rows);
  RETURN QUERY SELECT false, ${claimedNulls} FROM unnest(v_put.ids) AS n(id);
  IF p_slots > 0 AND cardinality(v_put.keys) > 0 THEN
    RETURN QUERY SELECT true, t.* FROM ${schema}.work_take(
      v_put.tenants[1:p_slots], v_put.keys[1:p_slots], p_owner, p_lease_ms, p_formats) t;
  END IF;
END;
$$;

-- One result came for a parked item: pending − 1; at 0 the item is ready and so is its lane. Answers what is left, null
-- when the item is not parked (a late or repeated result). The lane is locked first, so a park, a claim or another
-- result of the same lane cannot come between. The caller makes sure that a result counts once (its own row is unique).
CREATE FUNCTION ${schema}.work_resume(p_tenant text, p_key text, p_id uuid) RETURNS int
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_pending int;
BEGIN
  INSERT INTO ${lanes} AS l (tenant, key) VALUES (p_tenant, p_key)
  ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
  UPDATE ${work} i SET pending = i.pending - 1, state = CASE WHEN i.pending <= 1 THEN 'ready' ELSE i.state END
  WHERE i.tenant = p_tenant AND i.id = p_id AND i.key = p_key AND i.state = 'parked'
  RETURNING i.pending INTO v_pending;
  IF v_pending <= 0 THEN
    UPDATE ${lanes} l SET ready_at = clock_timestamp()
    WHERE l.tenant = p_tenant AND l.key = p_key AND l.owner IS NULL;
  END IF;
  RETURN v_pending;
END;
$$;

-- The same for a batch, and leases up to p_slots of the lanes that can go on to p_owner in the same transaction (as
-- work_enqueue_and_claim does). Lanes are locked in key order. One row with claimed = false and the pending count in
-- attempt for each result that counted, then the items to run.
CREATE FUNCTION ${schema}.work_resume_and_claim(p_tenants text[], p_keys text[], p_ids uuid[],
                                                p_owner uuid, p_slots int, p_lease_ms int, p_formats int[])
RETURNS TABLE (claimed boolean, ${claimedColumns})
LANGUAGE plpgsql ${definer} AS $$
#variable_conflict use_column
DECLARE
  v_result record;
  v_pending int;
  v_tenants text[] := '{}';
  v_keys text[] := '{}';
BEGIN
  FOR v_result IN
    SELECT n.tenant, n.key, n.id FROM unnest(p_tenants, p_keys, p_ids) AS n(tenant, key, id)
    ORDER BY n.tenant COLLATE "C", n.key COLLATE "C"
  LOOP
    v_pending := ${schema}.work_resume(v_result.tenant, v_result.key, v_result.id);
    CONTINUE WHEN v_pending IS NULL;
    RETURN QUERY SELECT false, v_result.tenant, v_result.key, NULL::bigint, v_result.id, NULL::smallint, NULL::jsonb,
                        v_pending, NULL::int, NULL::timestamptz, NULL::text;
    IF v_pending <= 0 AND cardinality(v_keys) < p_slots THEN
      v_tenants := v_tenants || v_result.tenant;
      v_keys := v_keys || v_result.key;
    END IF;
  END LOOP;
  IF cardinality(v_keys) > 0 THEN
    RETURN QUERY SELECT true, t.* FROM ${schema}.work_take(v_tenants, v_keys, p_owner, p_lease_ms, p_formats) t;
  END IF;
END;
$$;
`;
}
