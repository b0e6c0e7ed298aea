import type { Fault } from '@signalbox/faults/fault';
import { currentContext, runWithContext } from '@signalbox/telemetry/context';
import type { Logger, Metrics } from '@signalbox/telemetry/telemetry';
import {
  contextFromHeaders,
  failSpan,
  inSpan,
  type Span,
  startSpan,
  traceparentOf,
} from '@signalbox/telemetry/trace';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { pathOf } from './request-path.ts';

/** What is known of one request while it runs. */
export interface ObservedRequest {
  readonly startedAt: number;
  /** Undefined for probes, which are not traced. */
  readonly span: Span | undefined;
  readonly traceId: string | undefined;
  /** `traceparent` of the request's span: what its rows and records carry on. */
  readonly traceparent: string | undefined;
  tenantId: string | undefined;
  sessionId: string | undefined;
  failure: { readonly fault: Fault; readonly errorId: string } | undefined;
  /** The reply is an event stream or a socket. */
  stream: boolean;
  /** Called when the reply becomes a stream, or has ended: the request is answered. */
  onAnswered: (() => void) | undefined;
}

export interface Observer {
  /** Begins a request: `next` and all that follows run in its span and with its ids in every log record. */
  begin(request: FastifyRequest, reply: FastifyReply, next: () => void): void;
}

const knownMethods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']);
/** What proxies log for a client that left before it was answered; no status was ever sent. */
const clientLeft = 499;

/**
 * Gives each request a server span, a duration in `http_request_duration_seconds` and one log record when it has ended,
 * whichever way: answered, refused, left by its client. Labels are the route's pattern and known methods, never a path.
 *
 * A stream counts as answered when it opens, in the span and the histogram; its log record comes at its end.
 */
export function createObserver({ log, metrics }: { log: Logger; metrics: Metrics }): Observer {
  const durations = metrics.histogram('http_request_duration_seconds', {
    help: 'From the head of a request to the end of its reply, or to the opening of its stream.',
    labels: ['route', 'method', 'status'],
  });

  function begin(request: FastifyRequest, reply: FastifyReply, next: () => void): void {
    const startedAt = performance.now();
    const route = request.routeOptions.url ?? 'unmatched';
    const method = knownMethods.has(request.method) ? request.method : 'OTHER';
    const quiet = request.routeOptions.config.quiet === true;
    const parent = contextFromHeaders(request.headers);
    const span = quiet
      ? undefined
      : startSpan(`${method} ${route}`, { kind: 'server', parent, root: parent === undefined });
    span?.setAttributes({
      'http.request.method': method,
      'http.route': route,
      'url.path': pathOf(request.url),
      'signalbox.request_id': request.id,
    });
    const observed: ObservedRequest = {
      startedAt,
      span,
      traceId: span?.spanContext().traceId ?? parent?.traceId,
      traceparent: span === undefined ? undefined : traceparentOf(span),
      tenantId: undefined,
      sessionId: undefined,
      failure: undefined,
      stream: false,
      onAnswered: undefined,
    };
    request.observed = observed;
    let answered = false;

    const statusNow = (): number => {
      if (request.ws === true && reply.raw.statusCode === 200) return 101;
      return observed.stream || reply.raw.writableFinished ? reply.raw.statusCode : clientLeft;
    };
    const onAnswered = (): void => {
      if (answered) return;
      answered = true;
      const status = statusNow();
      durations.record((performance.now() - startedAt) / 1000, { route, method, status });
      if (span === undefined) return;
      span.setAttribute('http.response.status_code', status);
      if (observed.failure !== undefined && status >= 500) failSpan(span, observed.failure.fault);
      span.end();
    };
    request.streamOpened = () => {
      observed.stream = true;
      observed.onAnswered?.();
      onAnswered();
    };
    reply.raw.once('close', () => {
      observed.onAnswered?.();
      onAnswered();
      writeRecord(request, statusNow(), quiet);
    });
    const ids = { requestId: request.id };
    if (span === undefined) runWithContext(ids, next);
    else inSpan(span, () => runWithContext(ids, next));
  }

  function writeRecord(request: FastifyRequest, status: number, quiet: boolean): void {
    const { startedAt, span, failure, tenantId, sessionId, stream } = request.observed;
    const level =
      status >= 500 && failure?.fault.code === 'INTERNAL_ERROR' ? 'error' : quiet ? 'debug' : 'info';
    if (level === 'debug' && !log.enabled('DEBUG')) return;
    const at = span?.spanContext();
    log[level]('http.request', {
      requestId: request.id,
      ...(at === undefined ? undefined : { traceId: at.traceId, spanId: at.spanId }),
      ...(tenantId === undefined ? undefined : { tenantId }),
      ...(sessionId === undefined ? undefined : { sessionId }),
      method: request.method,
      path: pathOf(request.url),
      status,
      durationMs: Math.round((performance.now() - startedAt) * 100) / 100,
      ...(stream ? { stream } : undefined),
      ...failureFields(failure),
    });
  }

  return { begin };
}

/**
 * A defect is logged as what was thrown, with its stack. A refusal is no error of ours: its code and words are enough,
 * and a client that sends nonsense all day must not fill the log with stacks.
 */
function failureFields(failure: ObservedRequest['failure']): object | undefined {
  if (failure === undefined) return undefined;
  const { fault, errorId } = failure;
  if (fault.status >= 500)
    return { errorId, error: fault.code === 'INTERNAL_ERROR' ? (fault.cause ?? fault) : fault };
  return { errorId, errorCode: fault.code, errorType: fault.name, errorMessage: fault.message };
}

/**
 * Tells whose request it is, once that is known: on every log record from here on, on the request's own record and on
 * its span.
 */
export function identifyRequest(
  request: FastifyRequest,
  ids: { tenantId?: string; sessionId?: string },
): void {
  const { observed } = request;
  // The object that the request's log context holds: records written by what runs in the request see the change.
  Object.assign(currentContext(), ids);
  if (ids.tenantId !== undefined) {
    observed.tenantId = ids.tenantId;
    observed.span?.setAttribute('signalbox.tenant_id', ids.tenantId);
  }
  if (ids.sessionId !== undefined) {
    observed.sessionId = ids.sessionId;
    observed.span?.setAttribute('signalbox.session_id', ids.sessionId);
  }
}
