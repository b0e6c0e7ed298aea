import type pg from 'pg';

export const groupRoles = [
  'signalbox_gateway',
  'signalbox_conversation_worker',
  'signalbox_tool_executor',
  'signalbox_outbox_sync',
  'signalbox_memory_sync',
  'signalbox_memory_replicator',
  'signalbox_delegation_gateway',
  'signalbox_delegation_worker',
  'signalbox_job_worker',
] as const;

export type GroupRole = (typeof groupRoles)[number];

/** Quotes as Postgres does; for statements that take no parameters. */
function quoted(client: pg.Client, name: string): string {
  return client.escapeIdentifier(name);
}

/**
 * Makes the login role of a service's URL if it is missing (with the URL's password), makes it a member of the group
 * roles and bounds its idle transactions. It owns nothing and cannot bypass row level security: a role that could
 * (superuser, BYPASSRLS, member of signalbox_queue) is refused.
 */
export async function grantLogin(
  client: pg.Client,
  serviceUrl: string,
  roles: readonly GroupRole[],
): Promise<void> {
  const url = new URL(serviceUrl);
  const name = decodeURIComponent(url.username);
  const password = decodeURIComponent(url.password);
  if (name === '') throw new Error('the service URL names no user');
  const role = quoted(client, name);
  const found = await client.query<{ unsafe: boolean }>(
    `SELECT rolsuper OR rolbypassrls OR rolname = current_user AS unsafe FROM pg_roles WHERE rolname = $1`,
    [name],
  );
  if (found.rows[0]?.unsafe === true) {
    throw new Error(
      `role ${name} of DATABASE_URL sees every tenant's rows; services need a role of their own`,
    );
  }
  if (found.rows.length === 0) await createLogin(client, name, password);
  for (const group of roles) {
    const member = await client.query(
      `SELECT 1 FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
       WHERE g.rolname = $1 AND u.rolname = $2`,
      [group, name],
    );
    if (member.rowCount === 0) await client.query(`GRANT ${quoted(client, group)} TO ${role}`);
  }
  const bounded = await client.query(
    `SELECT 1 FROM pg_roles WHERE rolname = $1
       AND 'idle_in_transaction_session_timeout=5s' = ANY (coalesce(rolconfig, '{}'))`,
    [name],
  );
  if (bounded.rowCount === 0) {
    await client.query(`ALTER ROLE ${role} SET idle_in_transaction_session_timeout = '5s'`);
  }
  const database = await client.query<{ name: string }>('SELECT current_database() AS name');
  await client.query(`GRANT CONNECT ON DATABASE ${quoted(client, database.rows[0]?.name ?? '')} TO ${role}`);
}

/** Two migrations of two databases of one server may both find the role missing: roles belong to the server. */
async function createLogin(client: pg.Client, name: string, password: string): Promise<void> {
  const withPassword = password === '' ? '' : ` PASSWORD ${client.escapeLiteral(password)}`;
  try {
    await client.query(`CREATE ROLE ${quoted(client, name)} LOGIN${withPassword}`);
  } catch (error) {
    const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined;
    if (code !== '42710' && code !== '23505') throw error;
  }
}
