import { writeSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { asFault } from '@signalbox/faults/fault';
import type { LifecycleLog } from './lifecycle.ts';

/**
 * The log until telemetry is there: the same record, one JSON line on stdout. Written synchronously, for what it has
 * to say is often said right before the end of the process.
 */
export function bootLog(): LifecycleLog {
  const write =
    (level: string) =>
    (event: string, fields: Record<string, unknown> = {}) => {
      const { error, ...rest } = fields;
      const record = {
        timestamp: new Date().toISOString(),
        level,
        message: event,
        event,
        service: serviceFromEntry(process.argv[1]),
        ...snakeCase(rest),
        ...(error === undefined ? {} : errorFields(error)),
      };
      writeLine(1, JSON.stringify(record));
    };
  return { info: write('INFO'), error: write('ERROR'), critical: write('CRITICAL') };
}

/** Writes a line to a file descriptor; a reader that went away is no reason to fail. */
export function writeLine(descriptor: 1 | 2, line: string): void {
  try {
    writeSync(descriptor, `${line}\n`);
  } catch {
    // EPIPE, EAGAIN: nobody reads any more, and there is nowhere else to say so.
  }
}

/** `apps/gateway/src/main.ts` is the gateway: settings, which know the name for sure, may not be there yet. */
function serviceFromEntry(entry: string | undefined): string {
  if (entry === undefined) return 'signalbox';
  const folder = dirname(entry);
  return basename(basename(folder) === 'src' ? dirname(folder) : folder) || 'signalbox';
}

function errorFields(error: unknown): Record<string, unknown> {
  const known = asFault(error);
  const shown = error instanceof Error ? error : known;
  return {
    error_code: known.code,
    error_type: shown.name,
    error_message: shown.message,
    stack: shown.stack,
    ...(known.errors === undefined ? {} : { errors: known.errors }),
  };
}

function snakeCase(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
      value,
    ]),
  );
}
