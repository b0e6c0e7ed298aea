import type { QueueNames } from '../queue-migration.ts';
import { definer } from './tables.ts';

/** What a process does beside the work: the net, the counts, the old rows, the second chance. */
export function upkeepSql({ schema, items }: QueueNames): string {
  const lanes = `${schema}.lanes`;
  const work = `${schema}.${items}`;
  return `
-- The net: a free lane that is not marked ready although its lowest unfinished row can run. No way leads there; a row
-- changed by hand does. One process at a time, the others return at once. Answers how many lanes it found.
CREATE FUNCTION ${schema}.work_sweep() RETURNS int
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_lane record;
  v_found int := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('${schema}.work_sweep', 0)) THEN
    RETURN 0;
  END IF;
  FOR v_lane IN
    SELECT DISTINCT i.tenant, i.key FROM ${work} i
    WHERE i.finished_at IS NULL AND i.state <> 'parked' AND NOT EXISTS (
      SELECT 1 FROM ${lanes} l
      WHERE l.tenant = i.tenant AND l.key = i.key AND (l.owner IS NOT NULL OR l.ready_at IS NOT NULL))
    ORDER BY i.tenant, i.key LIMIT 1000
  LOOP
    INSERT INTO ${lanes} AS l (tenant, key) VALUES (v_lane.tenant, v_lane.key)
    ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
    -- Under the lock and in a new snapshot: is it still so?
    UPDATE ${lanes} l SET ready_at = clock_timestamp()
    WHERE l.tenant = v_lane.tenant AND l.key = v_lane.key AND l.owner IS NULL AND l.ready_at IS NULL
      AND (SELECT i.state <> 'parked' FROM ${work} i
           WHERE i.tenant = v_lane.tenant AND i.key = v_lane.key AND i.finished_at IS NULL ORDER BY i.seq LIMIT 1);
    IF FOUND THEN
      v_found := v_found + 1;
    END IF;
  END LOOP;
  RETURN v_found;
END;
$$;

-- Rows waiting for a process (not those that run or are parked) and the age of the oldest, by tenant.
CREATE FUNCTION ${schema}.work_load() RETURNS TABLE (tenant text, waiting bigint, oldest_seconds double precision)
LANGUAGE sql STABLE ${definer} AS $$
  SELECT i.tenant::text, count(*), extract(epoch FROM clock_timestamp() - min(i.enqueued_at))::double precision
  FROM ${work} i WHERE i.finished_at IS NULL AND i.state = 'ready' GROUP BY i.tenant;
$$;

-- Deletes up to p_limit finished rows older than p_older_ms, and lanes of theirs in which nothing is left to do. The age
-- must outlive the source topic's retention, because the row is the inbox. Answers how many rows went.
CREATE FUNCTION ${schema}.work_prune(p_older_ms bigint, p_limit int) RETURNS int
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_tenants text[];
  v_keys text[];
  v_gone int;
BEGIN
  WITH old AS (
    SELECT i.tenant, i.id FROM ${work} i
    WHERE i.finished_at IS NOT NULL AND i.finished_at < clock_timestamp() - make_interval(secs => p_older_ms / 1000.0)
    ORDER BY i.finished_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM ${work} i USING old WHERE i.tenant = old.tenant AND i.id = old.id RETURNING i.tenant, i.key
  )
  SELECT count(*), array_agg(g.tenant::text), array_agg(g.key::text) INTO v_gone, v_tenants, v_keys FROM gone g;
  IF v_gone = 0 THEN
    RETURN 0;
  END IF;
  -- Lock first, look in a later statement: an item that came meanwhile keeps its lane.
  SELECT array_agg(l.tenant::text), array_agg(l.key::text) INTO v_tenants, v_keys FROM (
    SELECT k.tenant, k.key FROM ${lanes} k
    WHERE (k.tenant, k.key) IN (SELECT DISTINCT n.tenant, n.key FROM unnest(v_tenants, v_keys) AS n(tenant, key))
      AND k.owner IS NULL AND k.ready_at IS NULL FOR UPDATE SKIP LOCKED) l;
  DELETE FROM ${lanes} l USING unnest(v_tenants, v_keys) AS n(tenant, key)
  WHERE l.tenant = n.tenant AND l.key = n.key
    AND NOT EXISTS (SELECT 1 FROM ${work} i
                    WHERE i.tenant = l.tenant AND i.key = l.key AND i.finished_at IS NULL);
  RETURN v_gone;
END;
$$;

-- A failed item runs again, as a new attempt, on its own row and in its own place. Answers whether it was failed.
CREATE FUNCTION ${schema}.work_requeue(p_tenant text, p_id uuid) RETURNS boolean
LANGUAGE plpgsql ${definer} AS $$
DECLARE
  v_key text;
BEGIN
  SELECT i.key INTO v_key FROM ${work} i WHERE i.tenant = p_tenant AND i.id = p_id;
  INSERT INTO ${lanes} AS l (tenant, key) SELECT p_tenant, v_key WHERE v_key IS NOT NULL
  ON CONFLICT (tenant, key) DO UPDATE SET ready_at = l.ready_at WHERE false;
  UPDATE ${work} i SET state = 'ready', finished_at = NULL, interrupted = true, retries = 0, not_before = NULL
  WHERE i.tenant = p_tenant AND i.id = p_id AND i.state = 'failed';
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
