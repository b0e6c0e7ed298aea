import type { QueueNames } from '../queue-migration.ts';
import { claimedColumns, definer, inner } from './tables.ts';

/**
 * Functions of the first migration that know of cancelled items and lost tries, and of who waits for what, since the second one. Only what
 * differs is commented here; the rest stands above the function of the same name in `claim.ts`, `outcome.ts`, `upkeep.ts`.
 */
export function replacedSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  const holder = 'p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_id uuid';
  const hold = `PERFORM ${schema}.work_hold(p_tenant, p_key, p_owner, p_fence);`;
  const running = `i.tenant = p_tenant AND i.id = p_id AND i.key = p_key AND i.state = 'running'`;
  const orLost = `IF NOT FOUND THEN RAISE EXCEPTION 'lease lost' USING ERRCODE = 'SB001'; END IF;`;
  return `
-- A row that is still marked running is a lost try: its holder is gone.
CREATE OR REPLACE FUNCTION ${schema}.work_take(
  p_tenants text[], p_keys text[], p_owner uuid, p_lease_ms int, p_formats int[])
RETURNS TABLE (${claimedColumns})
LANGUAGE plpgsql ${inner} AS $$
#variable_conflict use_column
DECLARE
  v_head record;
BEGIN
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
          lost = i.lost + CASE WHEN i.state = 'running' THEN 1 ELSE 0 END,
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

-- A cancelled item is not parked: nobody waits for its results, whoever claims it next ends it.
CREATE OR REPLACE FUNCTION ${schema}.work_park(${holder}, p_pending int) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i
  SET state = CASE WHEN p_pending > 0 AND i.cancel IS NULL THEN 'parked' ELSE 'ready' END,
      pending = CASE WHEN i.cancel IS NULL THEN p_pending ELSE 0 END
  WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- The end of a cancelled item is not put off.
CREATE OR REPLACE FUNCTION ${schema}.work_retry(${holder}, p_delay_ms int, p_error text) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  ${hold}
  UPDATE ${work} i
  SET state = 'ready', interrupted = true, retries = i.retries + 1, last_error = p_error,
      not_before = CASE WHEN i.cancel IS NULL THEN clock_timestamp() + make_interval(secs => p_delay_ms / 1000.0) END
  WHERE ${running};
  ${orLost}
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- A try that may have run and left nothing is a lost one.
CREATE OR REPLACE FUNCTION ${schema}.work_let_go(
  p_tenant text, p_key text, p_owner uuid, p_fence bigint, p_started boolean)
RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
BEGIN
  PERFORM 1 FROM ${lanes} l
  WHERE l.tenant = p_tenant AND l.key = p_key AND l.owner = p_owner AND l.fence = p_fence FOR UPDATE;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE ${work} i
  SET state = 'ready', interrupted = i.interrupted OR p_started, lost = i.lost + CASE WHEN p_started THEN 1 ELSE 0 END
  WHERE i.tenant = p_tenant AND i.key = p_key AND i.finished_at IS NULL AND i.state = 'running';
  RETURN ${schema}.work_free(p_tenant, p_key);
END;
$$;

-- By tenant: rows that wait for a process or for their turn in a lane that moves, and for how long the lane that waits
-- longest could have been claimed. What stands behind a parked row waits for results, which no process more brings; an
-- item that goes on after them, or after a retry, is as old as its lane's being ready, not as its message.
CREATE OR REPLACE FUNCTION ${schema}.work_load()
RETURNS TABLE (tenant text, waiting bigint, oldest_seconds double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT i.tenant::text, count(*), coalesce(extract(epoch FROM clock_timestamp() - min(l.ready_at)
    FILTER (WHERE l.owner IS NULL AND l.ready_at <= statement_timestamp())), 0)::double precision
  FROM ${work} i JOIN ${lanes} l ON l.tenant = i.tenant AND l.key = i.key
  WHERE i.finished_at IS NULL AND i.state = 'ready' AND (l.owner IS NOT NULL OR l.ready_at IS NOT NULL)
  GROUP BY i.tenant;
$$;

-- Not of an item whose end was asked for, also when it failed before that took effect. Its lost tries are forgiven.
CREATE OR REPLACE FUNCTION ${schema}.work_requeue(p_tenant text, p_id uuid) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_key text;
BEGIN
  SELECT i.key INTO v_key FROM ${work} i WHERE i.tenant = p_tenant AND i.id = p_id;
  INSERT INTO ${lanes} AS l (tenant, key) SELECT p_tenant, v_key WHERE v_key IS NOT NULL
  ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
  UPDATE ${work} i
  SET state = 'ready', finished_at = NULL, interrupted = true, retries = 0, lost = 0, not_before = NULL
  WHERE i.tenant = p_tenant AND i.id = p_id AND i.state = 'failed' AND i.cancel IS NULL;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  UPDATE ${lanes} l SET ready_at = clock_timestamp()
  WHERE l.tenant = p_tenant AND l.key = v_key AND l.owner IS NULL;
  RETURN true;
END;
$$;
`;
}
