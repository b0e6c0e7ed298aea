-- Roles and the helpers by which every other migration protects its tables.
--
-- Roles belong to the server, not to this database: another database's migration may be making them at this moment,
-- hence "if it is not there, and if somebody was faster, fine".
DO $$
DECLARE
  v_role text;
BEGIN
  FOREACH v_role IN ARRAY ARRAY['signalbox_queue', 'signalbox_gateway', 'signalbox_conversation_worker',
                                'signalbox_tool_executor', 'signalbox_outbox_sync'] LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = v_role) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', v_role);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
      END;
    END IF;
  END LOOP;
  -- Giving functions to signalbox_queue takes the right to become it; a superuser has that anyway.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
     AND NOT pg_has_role(current_user, 'signalbox_queue', 'SET') THEN
    EXECUTE format('GRANT signalbox_queue TO %I WITH INHERIT TRUE, SET TRUE', current_user);
  END IF;
END;
$$;

-- Services read their schema version here.
GRANT USAGE ON SCHEMA signalbox TO PUBLIC;
GRANT SELECT ON signalbox.migrations TO PUBLIC;

CREATE SCHEMA app;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA app TO PUBLIC;

-- The tenant of the transaction; null outside of one, and null is equal to no row's tenant.
CREATE FUNCTION app.tenant() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting('app.tenant', true), '');

-- The policy by which the role that migrates sees all rows although row level security is forced on owners too.
-- (A managed service's owner has no BYPASSRLS.)
CREATE FUNCTION app.let_owner_pass(p_table regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('CREATE POLICY owner_passes ON %s TO %I USING (true) WITH CHECK (true)', p_table, current_user);
END;
$$;

-- A tenant's table: forced row level security by app.tenant, and these rights for these roles.
-- SELECT app.protect_tenant_table('gateway.sessions', 'SELECT, INSERT, UPDATE', 'signalbox_gateway');
CREATE FUNCTION app.protect_tenant_table(p_table regclass, p_rights text, VARIADIC p_roles text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_role text;
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_table);
  EXECUTE format($policy$CREATE POLICY tenant_only ON %s
    USING (tenant = nullif(current_setting('app.tenant', true), ''))
    WITH CHECK (tenant = nullif(current_setting('app.tenant', true), ''))$policy$, p_table);
  PERFORM app.let_owner_pass(p_table);
  FOREACH v_role IN ARRAY p_roles LOOP
    EXECUTE format('GRANT %s ON %s TO %I', p_rights, p_table, v_role);
  END LOOP;
END;
$$;

-- A queue's table (outbox, inbox, dead letters, lanes, work rows): only signalbox_queue reaches it, and sees every
-- tenant's rows. No service role has a grant. Vacuumed by a threshold of rows: a share of a table that is nearly always
-- empty, but was large an hour ago, is the wrong measure. Room is left in each page for updates in place.
CREATE FUNCTION app.protect_queue_table(p_table regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', p_table);
  EXECUTE format('CREATE POLICY queue_only ON %s TO signalbox_queue USING (true) WITH CHECK (true)', p_table);
  PERFORM app.let_owner_pass(p_table);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO signalbox_queue', p_table);
  EXECUTE format('ALTER TABLE %s SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 50000, autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000, autovacuum_vacuum_cost_delay = 0)', p_table);
END;
$$;

-- Makes every SECURITY DEFINER function of the schema signalbox_queue's: it runs with that role's rights and a pinned
-- search_path, and only these roles may call it. Call it at the end of each migration that adds or replaces one.
-- SELECT app.protect_queue_functions('messaging', 'signalbox_gateway', 'signalbox_outbox_sync');
CREATE FUNCTION app.protect_queue_functions(p_schema text, VARIADIC p_roles text[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_function regprocedure;
  v_role text;
BEGIN
  -- A new owner must be allowed to create in the schema at the moment of the change, and at no other.
  EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO signalbox_queue', p_schema);
  FOR v_function IN
    SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = p_schema AND p.prosecdef ORDER BY p.oid
  LOOP
    IF NOT EXISTS (SELECT 1 FROM pg_proc p, unnest(p.proconfig) AS setting
                   WHERE p.oid = v_function AND setting LIKE 'search_path=%') THEN
      EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', v_function);
    END IF;
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', v_function);
    FOREACH v_role IN ARRAY p_roles LOOP
      EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', v_function, v_role);
    END LOOP;
    EXECUTE format('ALTER FUNCTION %s OWNER TO signalbox_queue', v_function);
  END LOOP;
  EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM signalbox_queue', p_schema);
  FOREACH v_role IN ARRAY p_roles LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', p_schema, v_role);
  END LOOP;
END;
$$;

-- Helpers of migrations; services have no use for them.
REVOKE ALL ON FUNCTION app.let_owner_pass(regclass), app.protect_tenant_table(regclass, text, text[]),
  app.protect_queue_table(regclass), app.protect_queue_functions(text, text[]) FROM PUBLIC;
