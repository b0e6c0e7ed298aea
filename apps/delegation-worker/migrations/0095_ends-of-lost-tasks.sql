-- Up Migration

-- Claims tasks for p_owner, to be ended: their end was asked for, and the process that held them has let its lease run out.
-- Past the slots, as claim_to_end. A holder that is only slow loses nothing: it was to end them too.
create function delegation_worker.claim_lost_to_end(p_owner uuid, p_limit int, p_lease_ms int, p_formats int[])
  returns table (tenant text, key text, fence bigint, id uuid, format smallint, payload jsonb, attempt int, retries int,
    enqueued_at timestamptz, traceparent text, lost int, cancel jsonb)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan set enable_seqscan = off
  set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
  v_tenants text[];
  v_keys text[];
begin
  select array_agg(e.tenant), array_agg(e.key) into v_tenants, v_keys from (
    select l.tenant, l.key from delegation_worker.lanes l
    where l.owner is not null and l.owner <> p_owner and l.until < clock_timestamp()
      and exists (select from delegation_worker.runs r
        where r.tenant = l.tenant and r.key = l.key and r.cancel is not null and r.finished_at is null)
    limit p_limit for update of l skip locked) e;
  if v_tenants is null then
    return;
  end if;
  return query
  select w.*, r.lost, r.cancel
  from delegation_worker.work_take(v_tenants, v_keys, p_owner, p_lease_ms, p_formats) w
  join delegation_worker.runs r on r.tenant = w.tenant and r.id = w.id;
end $$;

select app.protect_queue_functions('delegation_worker', 'signalbox_delegation_worker');

-- Down Migration

drop function delegation_worker.claim_lost_to_end;
