import { installGraphile, type MigrationDatabase } from '../src/install-graphile.ts';

/**
 * graphile-worker's schema, made by the owner: the service runs with it and may not change it. Its tables hold no text
 * of tenants, only names and ids of jobs; they are job-worker's alone, with forced row level security as every table.
 */
export const up = async (pgm: { db: MigrationDatabase; sql(text: string): void }): Promise<void> => {
  await installGraphile(pgm.db);
  pgm.sql(`
DO $$
DECLARE
  v_table regclass;
BEGIN
  FOR v_table IN
    SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'graphile_worker'::regnamespace AND c.relkind = 'r' ORDER BY 1
  LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', v_table);
    EXECUTE format('CREATE POLICY job_worker ON %s TO signalbox_job_worker USING (true) WITH CHECK (true)', v_table);
    PERFORM app.let_owner_pass(v_table);
  END LOOP;
END;
$$;
GRANT USAGE ON SCHEMA graphile_worker TO signalbox_job_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON graphile_worker._private_jobs, graphile_worker._private_job_queues,
  graphile_worker._private_tasks, graphile_worker._private_known_crontabs TO signalbox_job_worker;
GRANT SELECT ON graphile_worker.migrations, graphile_worker.jobs TO signalbox_job_worker;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA graphile_worker FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA graphile_worker TO signalbox_job_worker;
`);
};

export const down = (pgm: { sql(text: string): void }): void => {
  pgm.sql('DROP SCHEMA graphile_worker CASCADE');
};
