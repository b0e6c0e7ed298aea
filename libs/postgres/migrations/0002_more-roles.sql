-- Up Migration

-- The roles of the services for memories, delegation and jobs. See 0001 for "if somebody was faster, fine".
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['signalbox_memory_sync', 'signalbox_memory_replicator', 'signalbox_delegation_gateway',
                                'signalbox_delegation_worker', 'signalbox_job_worker'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = v_role) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
      END;
    END IF;
  END LOOP;
END;
$$;

-- Down Migration

-- Roles belong to the server: another database may use them.
