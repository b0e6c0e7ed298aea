import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface Service {
  readonly url: string;
  readonly pid: number;
}

/**
 * What runs now and where. Services in dev read their addresses from it, `signalbox` and the demo find the gateway in
 * it. A part without a pid is not ours: its address was given.
 */
export interface StackState {
  readonly startedAt: string;
  /** The process that started all of it. */
  readonly pid: number;
  /** The shell that ends the rest when that process is killed. */
  readonly keeper: { readonly pid: number };
  kafka?: { bootstrap: string; clusterId?: string; pid?: number };
  postgres?: { ownerUrl: string; url: string; pid?: number };
  redis?: { url: string; pid?: number };
  zipkin?: { url: string; pid?: number };
  otlp?: { url: string };
  model?: { url: string };
  services: Record<string, Service>;
}

export const stateFile = (dataDir: string): string => join(dataDir, 'state.json');

/** Replaces the file whole: a reader sees the old one or the new one. */
export function writeState(dataDir: string, state: StackState): void {
  const file = stateFile(dataDir);
  const fresh = `${file}.${process.pid}`;
  writeFileSync(fresh, `${JSON.stringify(state, null, 2)}\n`);
  renameSync(fresh, file);
}

export function removeState(dataDir: string): void {
  rmSync(stateFile(dataDir), { force: true });
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null;

/** The services in the state file of an earlier run, whatever became of it; none when it cannot be read. */
export function readServices(dataDir: string): Record<string, Service> {
  let state: unknown;
  try {
    state = JSON.parse(readFileSync(stateFile(dataDir), 'utf8'));
  } catch {
    return {};
  }
  if (!isRecord(state) || !isRecord(state.services)) return {};
  return Object.fromEntries(
    Object.entries(state.services).flatMap(([name, service]) =>
      isRecord(service) && typeof service.url === 'string' && typeof service.pid === 'number'
        ? [[name, { url: service.url, pid: service.pid }]]
        : [],
    ),
  );
}
