-- Up Migration

-- What tenants asked for, when what is scheduled last ran, and which processes run jobs.
CREATE SCHEMA job_worker;

CREATE TABLE job_worker.jobs (
  tenant text NOT NULL,
  job_id uuid NOT NULL,
  kind text NOT NULL,
  arguments jsonb NOT NULL,
  status text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'running', 'done', 'failed')),
  -- Begins so far. The number is the fence of a run: it ends the job only while no other run has begun.
  attempts integer NOT NULL DEFAULT 0,
  -- Runs that ended with an error that may pass; not those that died or were given back at a stop.
  failures integer NOT NULL DEFAULT 0,
  result jsonb,
  error text,
  traceparent text,
  request_id text,
  requested_at timestamptz NOT NULL,
  finished_at timestamptz,
  PRIMARY KEY (tenant, job_id)
);
CREATE INDEX jobs_newest ON job_worker.jobs (tenant, requested_at DESC, job_id DESC);
CREATE INDEX jobs_ended ON job_worker.jobs (finished_at) WHERE finished_at IS NOT NULL;
SELECT app.protect_tenant_table('job_worker.jobs', 'SELECT, INSERT, UPDATE', 'signalbox_job_worker');

GRANT USAGE ON SCHEMA job_worker TO signalbox_job_worker, signalbox_queue;

-- One row a schedule: its last run, and where that run is to go on.
CREATE TABLE job_worker.schedules (
  name text PRIMARY KEY,
  -- The tick that the last run was for.
  tick timestamptz NOT NULL,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  succeeded_at timestamptz,
  outcome text NOT NULL DEFAULT 'running' CHECK (outcome IN ('running', 'done', 'more', 'failed')),
  done bigint NOT NULL DEFAULT 0,
  resume jsonb,
  detail jsonb,
  error text
);

-- One row a process that runs jobs: graphile-worker locks a job for four hours and does not know who is alive.
CREATE TABLE job_worker.pools (
  pool_id text PRIMARY KEY,
  seen_at timestamptz NOT NULL
);

-- Neither has anything of a tenant in it.
ALTER TABLE job_worker.schedules ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE job_worker.pools ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY job_worker ON job_worker.schedules TO signalbox_job_worker USING (true) WITH CHECK (true);
CREATE POLICY job_worker ON job_worker.pools TO signalbox_job_worker USING (true) WITH CHECK (true);
SELECT app.let_owner_pass('job_worker.schedules'), app.let_owner_pass('job_worker.pools');
GRANT SELECT, INSERT, UPDATE, DELETE ON job_worker.schedules, job_worker.pools TO signalbox_job_worker;

-- Takes a job once, with the graphile-worker job that runs it, in the caller's transaction. True when it is new.
-- Exports of one tenant run one after the other (queue_name), so that one tenant cannot have all slots.
CREATE FUNCTION job_worker.take_job(p_tenant text, p_job_id uuid, p_kind text, p_arguments jsonb,
  p_requested_at timestamptz, p_traceparent text, p_request_id text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  v_new boolean;
BEGIN
  PERFORM set_config('app.tenant', p_tenant, true);
  INSERT INTO job_worker.jobs (tenant, job_id, kind, arguments, requested_at, traceparent, request_id)
  VALUES (p_tenant, p_job_id, p_kind, p_arguments, p_requested_at, p_traceparent, p_request_id)
  ON CONFLICT DO NOTHING;
  v_new := FOUND;
  PERFORM set_config('app.tenant', '', true);
  IF NOT v_new THEN
    RETURN false;
  END IF;
  PERFORM graphile_worker.add_job('requested_job', json_build_object('tenant', p_tenant, 'job_id', p_job_id),
    queue_name => 'jobs of ' || p_tenant, job_key => 'job:' || p_tenant || ':' || p_job_id, priority => -10);
  RETURN true;
END;
$$;
REVOKE ALL ON FUNCTION job_worker.take_job FROM PUBLIC;
GRANT EXECUTE ON FUNCTION job_worker.take_job TO signalbox_job_worker;

-- Rows of jobs that ended before, over all tenants, a bounded piece: how many went.
CREATE FUNCTION job_worker.prune_jobs(p_before timestamptz, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_gone integer;
BEGIN
  WITH old AS (
    SELECT tenant, job_id FROM job_worker.jobs WHERE finished_at < p_before
    ORDER BY finished_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  )
  DELETE FROM job_worker.jobs j USING old WHERE j.tenant = old.tenant AND j.job_id = old.job_id;
  GET DIAGNOSTICS v_gone = ROW_COUNT;
  RETURN v_gone;
END;
$$;
CREATE POLICY queue_prunes ON job_worker.jobs TO signalbox_queue USING (true) WITH CHECK (true);
GRANT SELECT, UPDATE, DELETE ON job_worker.jobs TO signalbox_queue;
SELECT app.protect_queue_functions('job_worker', 'signalbox_job_worker');

-- Down Migration

DROP SCHEMA job_worker CASCADE;
