import { createRequire } from 'node:module';
import { isSpanContextValid, trace } from '@opentelemetry/api';
import { type DestinationStream, destination, pino } from 'pino';
import { currentContext } from './context.ts';
import { logFields } from './log-fields.ts';
import { redact } from './redact.ts';
import { createTickLines, type TickLines } from './tick-lines.ts';

export type LogLevel = 'DEBUG' | 'INFO' | 'WARNING' | 'ERROR' | 'CRITICAL';
export type LogFields = Readonly<Record<string, unknown>>;

/**
 * Writes events with fields: `log.info('turn.finished', { turnId, durationMs })`. Field names are camelCase in code and
 * snake_case on the line; `error` takes anything thrown. The message is the event where none is given.
 */
export interface Logger {
  debug(event: string, fields?: LogFields, message?: string): void;
  info(event: string, fields?: LogFields, message?: string): void;
  warning(event: string, fields?: LogFields, message?: string): void;
  error(event: string, fields?: LogFields, message?: string): void;
  critical(event: string, fields?: LogFields, message?: string): void;
  /** A logger that adds these fields to every line. */
  child(fields: LogFields): Logger;
  /** Whether lines of this level are written at all: for fields that are dear to make. */
  enabled(level: LogLevel): boolean;
}

export interface LoggerOptions {
  readonly service: string;
  readonly version: string;
  readonly environment: string;
  readonly instanceId?: string;
  readonly level: LogLevel;
  readonly format: 'json' | 'pretty';
  /** Told of each ERROR and CRITICAL line with its codes: the error counters hang here. */
  onProblem?(level: 'ERROR' | 'CRITICAL', errorCode: string, errorType: string): void;
  /** Where lines go instead of stdout. */
  readonly destination?: { write(line: string): void };
}

const levels = { debug: 20, info: 30, warning: 40, error: 50, critical: 60 } as const;
type Method = keyof typeof levels;

/** The log record of the contracts, one JSON object a line on stdout (or, for people, pretty). */
export function createLogger(options: LoggerOptions): Logger {
  const least = levels[methodOf(options.level)];
  const sink = pino(
    {
      level: methodOf(options.level),
      customLevels: levels,
      useOnlyCustomLevels: true,
      messageKey: 'message',
      base: {
        service: options.service,
        version: options.version,
        environment: options.environment,
        ...(options.instanceId === undefined ? {} : { instance_id: options.instanceId }),
      },
      timestamp: () => `,"timestamp":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label.toUpperCase() }) },
    },
    stream(options),
  );

  function logger(bound: Record<string, unknown>): Logger {
    const write = (method: Method) => (event: string, fields?: LogFields, message?: string) => {
      if (levels[method] < least) return;
      const record = {
        event,
        ...contextFields(),
        ...bound,
        ...(fields === undefined ? undefined : logFields(fields)),
      };
      sink[method](record, message === undefined ? event : redact(message));
      if (method === 'error' || method === 'critical') {
        if (options.destination === undefined) stdout().flush();
        tellProblem(method, record);
      }
    };
    return {
      debug: write('debug'),
      info: write('info'),
      warning: write('warning'),
      error: write('error'),
      critical: write('critical'),
      child: (fields) => logger({ ...bound, ...logFields(fields) }),
      enabled: (level) => levels[methodOf(level)] >= least,
    };
  }

  function tellProblem(method: 'error' | 'critical', record: Record<string, unknown>): void {
    const { error_code, error_type } = record;
    options.onProblem?.(
      method === 'error' ? 'ERROR' : 'CRITICAL',
      typeof error_code === 'string' ? error_code : 'UNSPECIFIED',
      typeof error_type === 'string' ? error_type : 'unspecified',
    );
  }
  return logger({});
}

function methodOf(level: LogLevel): Method {
  return (
    { DEBUG: 'debug', INFO: 'info', WARNING: 'warning', ERROR: 'error', CRITICAL: 'critical' } as const
  )[level];
}

function contextFields(): Record<string, unknown> {
  const { requestId, tenantId, sessionId } = currentContext();
  const span = trace.getActiveSpan()?.spanContext();
  return {
    ...(requestId === undefined ? undefined : { request_id: requestId }),
    ...(span !== undefined && isSpanContextValid(span)
      ? { trace_id: span.traceId, span_id: span.spanId }
      : undefined),
    ...(tenantId === undefined ? undefined : { tenant_id: tenantId }),
    ...(sessionId === undefined ? undefined : { session_id: sessionId }),
  };
}

/**
 * Lines of one turn of the event loop are written together, an ERROR or CRITICAL and what stands before it at once: what
 * is logged right before the end of a process is what one needs most.
 */
function stream(options: LoggerOptions): DestinationStream {
  const raw = options.destination ?? stdout();
  if (options.format === 'json') return raw;
  // Loaded only where it is used: a service that writes JSON does not pay for it.
  const require = createRequire(import.meta.url);
  const pretty: typeof import('pino-pretty') = require('pino-pretty');
  const line = pretty.prettyFactory({
    colorize: options.destination === undefined && process.stdout.isTTY === true,
    messageKey: 'message',
    timestampKey: 'timestamp',
    levelKey: 'level',
    customLevels: 'debug:20,info:30,warning:40,error:50,critical:60',
    customColors: 'debug:blue,info:green,warning:yellow,error:red,critical:bgRed',
    ignore: 'service,version,environment,instance_id,event',
    messageFormat: '{service} · {message}',
    singleLine: true,
    translateTime: 'SYS:HH:MM:ss.l',
    errorLikeObjectKeys: [],
  });
  return { write: (text: string) => raw.write(line(text)) };
}

let toStdout: TickLines | undefined;

/** One for the process: loggers of one stdout must not overtake each other. A reader that has gone ends no service. */
function stdout(): TickLines {
  if (toStdout === undefined) {
    const out = destination({ fd: 1, sync: true });
    out.on('error', () => undefined);
    toStdout = createTickLines(out);
  }
  return toStdout;
}
