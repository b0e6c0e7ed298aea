import { describeProducer } from '../test/conformance/producer-suite.ts';
import { kafkajsBus } from './bus-client.ts';

describeProducer('kafkajs', kafkajsBus);
