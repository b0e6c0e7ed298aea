import type { QueueNames } from '../queue-migration.ts';
import { claimedColumns, definer, inner } from './tables.ts';

/**
 * Claiming. Only lanes are locked with SKIP LOCKED; what to run in them is read by a later statement, whose snapshot
 * sees all that was committed under the lane's lock before.
 *
 *   owner A: claim locks lane L, takes item 1, commits        (L: A, item 1 running)
 *   owner B: its candidates were read before that, L is locked or no longer free → skipped or re-checked away
 *   A: finish(1) under L's lock, sees item 2, frees L
 *   B: locks L, *then* reads: the lowest unfinished is 2, not 1
 */
export function claimSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  return `
-- For lanes that the caller has locked: gives each whose lowest unfinished row can run to p_owner; the others are freed
-- with the time from when they can (none while parked). A row still marked running was left by a holder that is gone.
-- A format this owner does not know is left to one that does, and looked at again in a second.
CREATE FUNCTION ${schema}.work_take(p_tenants text[], p_keys text[], p_owner uuid, p_lease_ms int, p_formats int[])
RETURNS TABLE (${claimedColumns})
LANGUAGE plpgsql ${inner} AS $$
#variable_conflict use_column
DECLARE
  v_head record;
BEGIN
  -- Lane by lane with small statements: one statement for all cost 0.2 ms only to start, and no less for each lane.
  FOR v_at IN 1..cardinality(p_keys) LOOP
    SELECT u.id, u.state, u.not_before, u.format INTO v_head FROM ${work} u
    WHERE u.tenant = p_tenants[v_at] AND u.key = p_keys[v_at] AND u.finished_at IS NULL ORDER BY u.seq LIMIT 1;
    IF v_head.state <> 'parked' AND v_head.format = ANY (p_formats)
       AND (v_head.not_before IS NULL OR v_head.not_before <= clock_timestamp()) THEN
      UPDATE ${lanes} l
      SET owner = p_owner, fence = nextval('${schema}.lane_fence'), ready_at = NULL,
          until = clock_timestamp() + make_interval(secs => p_lease_ms / 1000.0)
      WHERE l.tenant = p_tenants[v_at] AND l.key = p_keys[v_at]
      RETURNING l.tenant, l.key, l.fence INTO tenant, key, fence;
      UPDATE ${work} i
      SET state = 'running', interrupted = false, pending = 0, not_before = NULL,
          started_at = coalesce(i.started_at, clock_timestamp()),
          attempt = i.attempt + CASE WHEN i.attempt = 0 OR i.interrupted OR i.state = 'running' THEN 1 ELSE 0 END
      WHERE i.tenant = p_tenants[v_at] AND i.id = v_head.id
      RETURNING i.id, i.format, i.payload, i.attempt, i.retries, i.enqueued_at, i.traceparent
      INTO id, format, payload, attempt, retries, enqueued_at, traceparent;
      RETURN NEXT;
    ELSE
      UPDATE ${lanes} l
      SET owner = NULL, until = NULL,
          ready_at = CASE WHEN v_head.state IS NULL OR v_head.state = 'parked' THEN NULL
                          WHEN v_head.not_before > clock_timestamp() THEN v_head.not_before
                          ELSE clock_timestamp() + interval '1 second' END
      WHERE l.tenant = p_tenants[v_at] AND l.key = p_keys[v_at];
    END IF;
  END LOOP;
END;
$$;
REVOKE ALL ON FUNCTION ${schema}.work_take(text[], text[], uuid, int, int[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ${schema}.work_take(text[], text[], uuid, int, int[]) TO signalbox_queue;

${claimFunctionSql({ schema, items }, definer, 'l.ready_at')}
-- Tenants with a free lane to claim, in turn from behind p_after on. One index probe a tenant, however many lanes wait.
CREATE FUNCTION ${schema}.work_ready_tenants(p_after text, p_limit int) RETURNS text[]
LANGUAGE plpgsql ${inner} AS $$
DECLARE
  v_found text[] := '{}';
  v_last text COLLATE "C" := p_after;
  v_next text COLLATE "C";
  v_wrapped boolean := false;
  v_now timestamptz := clock_timestamp();
BEGIN
  WHILE cardinality(v_found) < p_limit LOOP
    SELECT l.tenant INTO v_next FROM ${lanes} l
    WHERE l.owner IS NULL AND l.ready_at <= v_now AND l.tenant > v_last
    ORDER BY l.tenant, l.ready_at LIMIT 1;
    IF v_next IS NULL AND NOT v_wrapped AND p_after <> '' THEN
      v_wrapped := true;
      v_last := '';
    ELSIF v_next IS NULL OR (v_wrapped AND v_next > p_after) THEN
      EXIT;
    ELSE
      v_found := v_found || v_next::text;
      v_last := v_next;
    END IF;
  END LOOP;
  RETURN v_found;
END;
$$;
REVOKE ALL ON FUNCTION ${schema}.work_ready_tenants(text, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ${schema}.work_ready_tenants(text, int) TO signalbox_queue;
`;
}

/** `order`: which of a tenant's free lanes comes first; there is an index that gives it. */
export function claimFunctionSql({ schema }: QueueNames, rights: string, order: string): string {
  return `
-- Up to p_limit items for p_owner, each lane leased for p_lease_ms. First, if p_take_expired, lanes whose lease ran out
-- and that nobody renewed; then free lanes, tenants in turn, beginning behind p_after (the tenant served last), the
-- longest waiting lane of a tenant first.
CREATE FUNCTION ${schema}.work_claim(p_owner uuid, p_limit int, p_lease_ms int, p_take_expired boolean, p_formats int[],
                                     p_after text DEFAULT '')
RETURNS TABLE (${claimedColumns})
LANGUAGE plpgsql ${rights} AS $$
#variable_conflict use_column
DECLARE
  v_left int := p_limit;
  v_tenants text[];
  v_keys text[];
  v_locked int;
  v_taken int;
  v_ready text[];
  v_place int;
  v_tenant text;
  v_more record;
  -- A volatile function in the condition could not use the index.
  v_now timestamptz := clock_timestamp();
BEGIN
  IF p_take_expired AND v_left > 0 THEN
    SELECT array_agg(e.tenant), array_agg(e.key) INTO v_tenants, v_keys FROM (
      SELECT l.tenant, l.key FROM ${schema}.lanes l
      WHERE l.owner IS NOT NULL AND l.owner <> p_owner AND l.until < clock_timestamp()
      LIMIT v_left FOR UPDATE SKIP LOCKED) e;
    IF v_tenants IS NOT NULL THEN
      RETURN QUERY SELECT * FROM ${schema}.work_take(v_tenants, v_keys, p_owner, p_lease_ms, p_formats);
      GET DIAGNOSTICS v_taken = ROW_COUNT;
      v_left := v_left - v_taken;
    END IF;
  END IF;
  -- More than one round only where lanes turned out not to run, or one tenant had fewer than its share.
  FOR v_round IN 1..4 LOOP
    EXIT WHEN v_left <= 0;
    -- A few more than slots: another claim may be at the lanes of some.
    v_ready := ${schema}.work_ready_tenants(p_after, least(64, v_left + 8));
    EXIT WHEN cardinality(v_ready) = 0;
    v_tenants := '{}';
    v_keys := '{}';
    FOR v_place IN 1..cardinality(v_ready) LOOP
      v_locked := cardinality(v_tenants);
      EXIT WHEN v_locked >= v_left;
      v_tenant := v_ready[v_place];
      FOR v_more IN
        SELECT l.tenant, l.key FROM ${schema}.lanes l
        WHERE l.tenant = v_tenant AND l.owner IS NULL AND l.ready_at <= v_now
        ORDER BY ${order}
        LIMIT ceil((v_left - v_locked) / (cardinality(v_ready) - v_place + 1)::numeric)
        FOR UPDATE SKIP LOCKED
      LOOP
        v_tenants := v_tenants || v_more.tenant::text;
        v_keys := v_keys || v_more.key::text;
      END LOOP;
    END LOOP;
    EXIT WHEN cardinality(v_tenants) = 0;
    RETURN QUERY SELECT * FROM ${schema}.work_take(v_tenants, v_keys, p_owner, p_lease_ms, p_formats);
    GET DIAGNOSTICS v_taken = ROW_COUNT;
    v_left := v_left - v_taken;
  END LOOP;
END;
$$;
`;
}
