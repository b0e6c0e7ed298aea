import { fault } from '@signalbox/faults/fault';

const requestTimeoutMs = 2000;

/** Prints /health of a service as a table. False when it is down; throws TIMEOUT when it does not answer. */
export async function showHealth(url: string, print: (line: string) => void): Promise<boolean> {
  let response: Response;
  try {
    response = await fetch(new URL('/health', url), { signal: AbortSignal.timeout(requestTimeoutMs) });
  } catch (error) {
    throw fault('TIMEOUT', `no service answers at ${url}`, { cause: error });
  }
  const body: unknown = await response.json();
  print(
    `${url} ${field(body, 'status')} (version ${field(body, 'version')}, up ${field(body, 'uptime_seconds')} s)`,
  );
  const checks = Object.entries(record(record(body).checks));
  const width = Math.max(0, ...checks.map(([name]) => name.length));
  for (const [name, check] of checks) {
    const { status, reason, latency_ms: latency, age_ms: age } = record(check);
    const why = reason === undefined ? '' : `  ${String(reason)}`;
    const timing = latency === undefined ? '' : `  ${String(latency)} ms, ${String(age)} ms ago`;
    print(`  ${name.padEnd(width)}  ${String(status).padEnd(8)}${timing}${why}`);
  }
  return response.ok;
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {};
}

function field(body: unknown, name: string): string {
  return String(record(body)[name] ?? '?');
}
