-- Up Migration

-- Tasks of a tenant that others have delegated and that have not ended, counted up to p_limit. Planned each time: a plan
-- kept from when the table was empty may look through all tasks of the tenant.
create function delegation_worker.open_children(p_tenant text, p_limit int) returns int
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off
as $$
declare
  v_open int;
begin
  execute 'select count(*)::int from (
             select from delegation_worker.tasks c
             where c.tenant = $1 and c.parent_task_id is not null and c.ended_at is null limit $2) counted'
    into v_open using p_tenant, p_limit;
  return v_open;
end $$;

select app.protect_queue_functions('delegation_worker', 'signalbox_delegation_worker');

-- Down Migration

drop function delegation_worker.open_children;
