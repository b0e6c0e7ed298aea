-- Up Migration

-- What a turn is run with, and what it leaves: personas, model profiles, the copy of the tool catalog; the journal of
-- steps; the history. All of one tenant at a time: row level security by app.tenant.

create table conversation_worker.personas (
  tenant        text not null,
  persona_id    text not null,
  system_prompt text not null,
  model_profile text not null,
  tools         text[] not null default '{}',
  -- max_rounds, max_tool_calls, max_output_tokens, max_turn_ms, history_tokens; what is left out is the service's.
  limits        jsonb not null default '{}',
  primary key (tenant, persona_id)
);

-- Nulls come from the service's settings (MODEL_*), so that one environment variable moves a whole stack.
create table conversation_worker.model_profiles (
  tenant            text not null,
  name              text not null,
  provider          text check (provider in ('openai', 'anthropic')),
  model             text,
  base_url          text,
  -- A key or a reference to one: ${secret:name}.
  api_key           text,
  max_output_tokens int not null default 4096 check (max_output_tokens > 0),
  fallback          text,
  primary key (tenant, name)
);

-- The copy of tool.catalog. An older version never replaces a newer one.
create table conversation_worker.tools (
  tenant      text not null,
  name        text not null,
  description text not null,
  parameters  jsonb not null,
  timeout_ms  int not null,
  enabled     boolean not null,
  version     bigint not null,
  primary key (tenant, name)
);

-- The journal. operation_key is stored before the first try of a step, outcome when it had one; a step with an outcome
-- is never run again. Steps of a turn that ended are kept as long as its row.
create table conversation_worker.steps (
  tenant        text not null,
  turn_id       uuid not null,
  step          int not null,
  kind          text not null check (kind in ('model', 'tool')),
  operation_key text not null,
  format        smallint not null default 1,
  -- Of a tool step: tool, arguments, the model's id of the call. Of the first model step: history_from.
  input         jsonb not null,
  outcome       jsonb,
  -- What came for a step that had its outcome already (its wait was over): kept to be seen, never applied.
  late_outcome  jsonb,
  -- The event that brought the outcome: its redelivery is not a late one.
  outcome_event uuid,
  -- The attempt of the turn that began the step, and of a finished model step the one that ended it.
  attempt       int not null,
  -- Until when the turn waits for a tool.
  wait_until    timestamptz,
  started_at    timestamptz not null default clock_timestamp(),
  finished_at   timestamptz,
  primary key (tenant, turn_id, step)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index steps_waiting on conversation_worker.steps (wait_until) where wait_until is not null;
create index steps_started on conversation_worker.steps using brin (started_at);

-- Finished turns as the model is shown them: whole, with their tool rounds. `tokens` is what the turn costs in a window.
create table conversation_worker.history (
  tenant      text not null,
  session_id  uuid not null,
  seq         bigint generated always as identity,
  turn_id     uuid not null,
  messages    jsonb not null,
  tokens      int not null,
  finished_at timestamptz not null default clock_timestamp(),
  primary key (tenant, session_id, seq)
);

select app.protect_tenant_table('conversation_worker.personas', 'SELECT, INSERT, UPDATE, DELETE', 'signalbox_conversation_worker');
select app.protect_tenant_table('conversation_worker.model_profiles', 'SELECT, INSERT, UPDATE, DELETE', 'signalbox_conversation_worker');
select app.protect_tenant_table('conversation_worker.tools', 'SELECT, INSERT, UPDATE, DELETE', 'signalbox_conversation_worker');
select app.protect_tenant_table('conversation_worker.steps', 'SELECT, INSERT, UPDATE, DELETE', 'signalbox_conversation_worker');
select app.protect_tenant_table('conversation_worker.history', 'SELECT, INSERT, DELETE', 'signalbox_conversation_worker');

-- The waits that are over are looked for across tenants, by the queue's role and nobody else.
create policy queue_waits on conversation_worker.steps to signalbox_queue using (true) with check (true);
grant select, delete on conversation_worker.steps to signalbox_queue;

-- Down Migration
drop table conversation_worker.history, conversation_worker.steps, conversation_worker.tools,
  conversation_worker.model_profiles, conversation_worker.personas;
