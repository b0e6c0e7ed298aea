-- Up Migration

-- Every service that sends and consumes needs what tool-executor, which does no more than that, was given.
do $$
declare
  v_function regprocedure;
  v_role text;
begin
  foreach v_role in array array['signalbox_memory_sync', 'signalbox_memory_replicator', 'signalbox_delegation_gateway',
                                'signalbox_delegation_worker', 'signalbox_job_worker'] loop
    execute format('grant usage on schema messaging to %I', v_role);
    for v_function in
      select p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = p.pronamespace
      where n.nspname = 'messaging' and has_function_privilege('signalbox_tool_executor', p.oid, 'execute')
      order by p.oid
    loop
      execute format('grant execute on function %s to %I', v_function, v_role);
    end loop;
  end loop;
end $$;

-- Down Migration

do $$
declare
  v_role text;
begin
  foreach v_role in array array['signalbox_memory_sync', 'signalbox_memory_replicator', 'signalbox_delegation_gateway',
                                'signalbox_delegation_worker', 'signalbox_job_worker'] loop
    execute format('revoke all on all functions in schema messaging from %I', v_role);
    execute format('revoke usage on schema messaging from %I', v_role);
  end loop;
end $$;
