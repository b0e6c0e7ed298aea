-- Up Migration

-- Webhooks that have failed, of one tenant or of all (null), the last first.
create function delegation_webhooks.failed_webhooks(p_tenant text, p_limit int)
  returns table (tenant text, webhook_id uuid, task_id text, url text, attempts int, failed_at timestamptz, last_error text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select w.tenant::text, w.id, w.key::text, w.payload ->> 'url', w.attempt, w.finished_at, w.last_error
  from delegation_webhooks.webhooks w
  where w.state = 'failed' and (p_tenant is null or w.tenant = p_tenant)
  order by w.finished_at desc limit p_limit
$$;

select app.protect_queue_functions('delegation_webhooks', 'signalbox_delegation_worker');

-- Down Migration

drop function delegation_webhooks.failed_webhooks;
